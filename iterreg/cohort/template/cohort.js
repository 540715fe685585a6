"use strict";
(() => {
  const body = document.querySelector("#cases tbody");
  const rows = [...body.rows];
  const find = document.getElementById("find");
  const boxes = [...document.querySelectorAll("input[name=group]")];
  const words = rows.map((row) => `${row.cells[1].textContent} ${row.cells[4].textContent}`.toLowerCase());

  const filter = () => {
    const groups = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const asked = find.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, k) => {
      const seen = groups.has(row.dataset.group) && words[k].includes(asked);
      row.hidden = !seen;
      shown += seen;
    });
    document.getElementById("shown").textContent = shown;
  };

  const keyOf = (row, column, kind) => {
    if (kind === "order") return Number(row.dataset.order);
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent;
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };

  const compare = (a, b) => {
    if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  };

  const sort = (head) => {
    const column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = rows.map((row) => [keyOf(row, column, head.dataset.kind), row]);
    keyed.sort(([a], [b]) => {
      const missing = Number.isNaN(a) || Number.isNaN(b);
      return missing || up ? compare(a, b) : compare(b, a);
    });
    body.append(...keyed.map(([, row]) => row));
  };

  for (const box of boxes) box.addEventListener("change", filter);
  find.addEventListener("input", filter);
  for (const head of document.querySelectorAll("#cases thead [data-kind]")) {
    head.querySelector("button").addEventListener("click", () => sort(head));
  }
  filter();
  document.documentElement.dataset.ready = "1";
})();
