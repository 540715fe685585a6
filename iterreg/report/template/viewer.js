"use strict";
(() => {
  const holder = document.getElementById("viewer-data");
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
  if (!holder) { document.documentElement.dataset.ready = "1"; return; }
  const data = JSON.parse(holder.textContent);

  const SEEN_BEFORE = 1, SEEN_AFTER = 2, SEEN_FIXED = 4, FOLD = 8;
  const BLUE = "#4d9bff", ORANGE = "#ff9a3d", LINES = "#ffe66d";
  const OUTLINE_COLOURS = ["#b9bec4", "#2fd6b5", "#ffe66d", "#c78cff", "#ff6fb5", "#d9f2a0", "#8a7fd6"];
  const VOLUME_RAMP = ["#40127a", "#8a6fc0", "#f4f4f4", "#e8a04c", "#8a3a00"];
  const ERROR_RAMP = ["#00224e", "#35456c", "#7d7c78", "#bcae6c", "#fee838"];
  const MILLISECONDS = 700;
  const NOT_SEEN = "Hatched: not seen by the moving image, so there is nothing to compare.";

  const EITHER = "Hatched: not seen by one of the images, so there is nothing to compare.";

  const MODES = [
    { id: "fixed", name: "Fixed", layers: ["fixed"], base: "fixed", hatch: SEEN_FIXED,
      note: "The fixed image. Hatched: outside its field of view." },
    { id: "before", name: "Moving, before", layers: ["before"], base: "before", hatch: SEEN_BEFORE,
      note: "The moving image before the registration. " + NOT_SEEN },
    { id: "warped", name: "Warped", layers: ["warped"], base: "warped", hatch: SEEN_AFTER,
      note: "The moving image after the registration. " + NOT_SEEN },
    { id: "flicker", name: "Flicker", layers: ["fixed", "warped"], hatch: SEEN_AFTER,
      note: "Fixed and warped image in turn. What jumps does not agree. " + NOT_SEEN },
    { id: "checkerboard", name: "Checkerboard", layers: ["fixed", "warped"], hatch: SEEN_AFTER,
      note: "Squares of the fixed and the warped image. Borders should run on from square to square. " + NOT_SEEN },
    { id: "difference-before", name: "Difference, before", layers: ["fixed", "before"], moved: "before",
      hatch: SEEN_BEFORE, note: "Fixed image and moving image before the registration; grey where they agree. " + EITHER },
    { id: "difference-after", name: "Difference, after", layers: ["fixed", "warped"], moved: "warped",
      hatch: SEEN_AFTER, note: "Fixed and warped image; grey where they agree. Images of different contrast differ in colour even where they fit: use the checkerboard for them. " + EITHER },
    { id: "lattice", name: "Deformed lattice", layers: ["warped", "rows", "columns"], hatch: SEEN_AFTER,
      note: "Lines that are straight in the moving image, as the registration bends them. A jump between regions is sliding. " + NOT_SEEN },
    { id: "jacobian", name: "log det J", layers: ["fixed", "jacobian"], hatch: SEEN_FIXED,
      note: "Local change of volume from the fixed to the moving image, over the fixed image. Black and white squares: folded voxels on this slice." },
    { id: "error", name: "Expected error", layers: ["fixed", "error"], hatch: SEEN_FIXED, needsError: true,
      note: "Error to expect at each voxel, over the fixed image." },
  ].filter((mode) => !mode.needsError || data.errorMm !== null);
  const byId = Object.fromEntries(MODES.map((mode) => [mode.id, mode]));

  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const ramp = (colours) => {
    const stops = colours.map(rgb), table = new Uint8Array(256 * 3);
    for (let v = 0; v < 256; v++) {
      const at = (v / 255) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
      for (let c = 0; c < 3; c++) table[3 * v + c] = stops[k][c] + (at - k) * (stops[k + 1][c] - stops[k][c]);
    }
    return table;
  };
  const RAMPS = { jacobian: ramp(VOLUME_RAMP), error: ramp(ERROR_RAMP) };

  /* A layer is decoded once, from a sheet of slices into one byte per pixel. */
  const decoded = new Map();
  const layer = (plane, name) => {
    const key = plane.name + "/" + name;
    if (!decoded.has(key)) {
      const entry = { bytes: null };
      entry.ready = (async () => {
        const image = new Image();
        image.src = plane.sheets[name];
        await image.decode();
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const four = context.getImageData(0, 0, canvas.width, canvas.height).data;
        const bytes = new Uint8Array(four.length / 4);
        for (let k = 0; k < bytes.length; k++) bytes[k] = four[4 * k];
        entry.bytes = bytes;
      })();
      decoded.set(key, entry);
    }
    return decoded.get(key);
  };
  const slice = (plane, name, index) => {
    const { bytes } = layer(plane, name), { rows, columns, across } = plane;
    const width = across * columns, result = new Uint8Array(rows * columns);
    const top = Math.floor(index / across) * rows, left = (index % across) * columns;
    for (let y = 0; y < rows; y++)
      result.set(bytes.subarray((top + y) * width + left, (top + y) * width + left + columns), y * columns);
    return result;
  };
  const load = (plane, mode) =>
    Promise.all([...mode.layers, "labels", "flags"].map((name) => layer(plane, name).ready));

  /* Colours at the resolution of the slices. */
  const paint = (plane, index, mode, swapped) => {
    const n = plane.rows * plane.columns, out = new Uint8ClampedArray(4 * n);
    const grey = (values, factor = 1) => {
      for (let k = 0; k < n; k++) out[4 * k] = out[4 * k + 1] = out[4 * k + 2] = factor * values[k];
    };
    if (mode.base) grey(slice(plane, mode.base, index));
    if (mode.id === "flicker") grey(slice(plane, swapped ? "warped" : "fixed", index));
    if (mode.id === "lattice") grey(slice(plane, "warped", index), 0.55);
    if (mode.moved) {
      const a = slice(plane, "fixed", index), b = slice(plane, mode.moved, index);
      const flags = slice(plane, "flags", index);
      for (let k = 0; k < n; k++) {
        const seen = (flags[k] & mode.hatch) && (flags[k] & SEEN_FIXED);
        out[4 * k] = seen ? b[k] : 0.55 * a[k];
        out[4 * k + 1] = seen ? (a[k] + b[k]) / 2 : 0.55 * a[k];
        out[4 * k + 2] = seen ? a[k] : 0.55 * a[k];
      }
    }
    if (RAMPS[mode.id]) {
      const a = slice(plane, "fixed", index), values = slice(plane, mode.id, index), table = RAMPS[mode.id];
      for (let k = 0; k < n; k++)
        for (let c = 0; c < 3; c++) out[4 * k + c] = 0.3 * a[k] + 0.7 * table[3 * values[k] + c];
    }
    for (let k = 0; k < n; k++) out[4 * k + 3] = 255;
    return new ImageData(out, plane.columns, plane.rows);
  };

  const roundStep = (limit) => {
    const power = 10 ** Math.floor(Math.log10(limit));
    return power * [5, 2, 1].find((f) => f * power <= limit * 1.001);
  };
  const longest = Math.max(...data.planes.map((p) => Math.max(p.rows, p.columns) * p.pixelMm));
  const TEXT_MM = Math.max(...data.planes.map((p) => p.columns * p.pixelMm)) / 36;
  const stepMm = Math.min(roundStep(longest / 30), data.planes[0].letters ? 10 : Infinity);

  /* Lines where the landed position passes a multiple of the step; never across two labels. */
  const drawLattice = (out, plane, index, zoom) => {
    const { rows, columns, pixelMm } = plane, scale = data.motionMm / 127;
    const labels = slice(plane, "labels", index), flags = slice(plane, "flags", index);
    const shifts = [slice(plane, "rows", index), slice(plane, "columns", index)];
    const colour = rgb(LINES), width = columns * zoom;
    const landed = (which, y, x) =>
      ((which ? x : y) + 0.5) * pixelMm + (shifts[which][y * columns + x] - 128) * scale;
    for (let which = 0; which < 2; which++)
      for (let y = 0; y < rows; y++)
        for (let x = 0; x < columns; x++) {
          const here = y * columns + x;
          if (!(flags[here] & SEEN_AFTER)) continue;
          const value = landed(which, y, x);
          const slope = [[0, 1], [1, 0]].map(([dy, dx]) => {
            const inside = (p, q) => p >= 0 && q >= 0 && p < rows && q < columns && labels[p * columns + q] === labels[here];
            const after = inside(y + dy, x + dx), before = inside(y - dy, x - dx);
            if (after && before) return (landed(which, y + dy, x + dx) - landed(which, y - dy, x - dx)) / 2;
            if (after) return landed(which, y + dy, x + dx) - value;
            if (before) return value - landed(which, y - dy, x - dx);
            return (which ? dx : dy) * pixelMm;
          });
          const length = Math.max(Math.hypot(...slope), 1e-6);
          for (let j = 0; j < zoom; j++)
            for (let i = 0; i < zoom; i++) {
              const at = value + slope[0] * ((i + 0.5) / zoom - 0.5) + slope[1] * ((j + 0.5) / zoom - 0.5);
              const off = (Math.abs(at - Math.round(at / stepMm) * stepMm) / length) * zoom;
              const alpha = (labels[here] || !data.regions.length ? 0.85 : 0.3) * Math.max(0, Math.min(1, 1.1 - off));
              if (alpha <= 0) continue;
              const k = 4 * ((y * zoom + j) * width + x * zoom + i);
              for (let c = 0; c < 3; c++) out[k + c] += alpha * (colour[c] - out[k + c]);
            }
        }
  };

  const overlay = (picture, plane, index, mode, outlined, zoom) => {
    const { rows, columns } = plane, out = picture.data, width = columns * zoom;
    const flags = slice(plane, "flags", index);
    if (mode.id === "lattice") drawLattice(out, plane, index, zoom);
    const labels = outlined ? slice(plane, "labels", index) : null;
    for (let y = 0; y < rows * zoom; y++)
      for (let x = 0; x < width; x++) {
        const row = Math.floor(y / zoom), column = Math.floor(x / zoom), here = row * columns + column;
        const k = 4 * (y * width + x);
        const hidden = !(flags[here] & mode.hatch) || (mode.moved && !(flags[here] & SEEN_FIXED));
        if (hidden && (x + y) % 14 < 2) { out[k] = out[k + 1] = out[k + 2] = 150; }
        if (mode.id === "jacobian" && flags[here] & FOLD)
          out[k] = out[k + 1] = out[k + 2] = (Math.floor(2 * x / zoom) + Math.floor(2 * y / zoom)) % 2 ? 255 : 0;
        if (labels && labels[here]) {
          const differs = (dx, dy) => {
            const p = Math.floor((y + dy) / zoom), q = Math.floor((x + dx) / zoom);
            return p >= 0 && q >= 0 && p < rows && q < columns && labels[p * columns + q] !== labels[here];
          };
          if (differs(1, 0) || differs(-1, 0) || differs(0, 1) || differs(0, -1))
            rgb(OUTLINE_COLOURS[(labels[here] - 1) % OUTLINE_COLOURS.length]).forEach((v, c) => { out[k + c] = v; });
        }
      }
  };

  const small = document.createElement("canvas");
  const draw = (canvas, plane, index, mode, options) => {
    const zoom = Math.max(1, Math.min(6, Math.round(640 / Math.max(plane.rows, plane.columns))));
    canvas.width = plane.columns * zoom; canvas.height = plane.rows * zoom;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const put = (picture, clip) => {
      small.width = plane.columns; small.height = plane.rows;
      small.getContext("2d").putImageData(picture, 0, 0);
      context.save();
      if (clip) context.clip(clip);
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
      context.restore();
    };
    if (mode.id === "checkerboard") {
      put(paint(plane, index, byId.fixed, false));
      const side = Math.max(canvas.width, canvas.height) / 9, squares = new Path2D();
      for (let y = 0; y * side < canvas.height; y++)
        for (let x = y % 2; x * side < canvas.width; x += 2) squares.rect(x * side, y * side, side, side);
      put(paint(plane, index, byId.warped, false), squares);
    } else put(paint(plane, index, mode, options.swapped));
    const picture = context.getImageData(0, 0, canvas.width, canvas.height);
    overlay(picture, plane, index, mode, options.outlined, zoom);
    context.putImageData(picture, 0, 0);
    letter(context, canvas, plane);
  };
  const letter = (context, canvas, plane) => {
    const size = TEXT_MM * canvas.width / (plane.columns * plane.pixelMm), w = canvas.width, h = canvas.height;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = "center"; context.textBaseline = "middle"; context.lineWidth = size / 4;
    const places = [[size, h / 2], [w - size, h / 2], [w / 2, size], [w / 2, h - size]];
    const write = (text, x, y) => {
      context.strokeStyle = "#000"; context.strokeText(text, x, y);
      context.fillStyle = "#fff"; context.fillText(text, x, y);
    };
    [...plane.letters].forEach((text, k) => write(text, ...places[k]));
    const bar = roundStep(plane.columns * plane.pixelMm / 4), long = bar / plane.pixelMm * (w / plane.columns);
    context.fillStyle = "#000"; context.fillRect(w - long - size * 0.8, h - size * 0.95, long + size * 0.4, size * 0.5);
    context.fillStyle = "#fff"; context.fillRect(w - long - size * 0.6, h - size * 0.8, long, size * 0.2);
    context.textAlign = "right";
    write(`${bar} mm`, w - size * 0.6, h - size * 1.6);
  };

  /* State, controls, and the address, which keeps the state so that a view can be passed on. */
  const state = { mode: "difference-after", layout: "all", outlined: false, swapped: false, paused: false,
    index: Object.fromEntries(data.planes.map((p) => [p.name, Math.floor(p.count / 2)])) };
  const title = (word) => word[0].toUpperCase() + word.slice(1);
  const figures = {};
  const refresh = async (names = data.planes.map((p) => p.name)) => {
    const mode = byId[state.mode];
    for (const plane of data.planes.filter((p) => names.includes(p.name))) {
      await load(plane, mode);
      if (mode !== byId[state.mode]) return;
      const { canvas, output, range } = figures[plane.name], index = state.index[plane.name];
      draw(canvas, plane, index, mode, state);
      const axis = { axial: "z", coronal: "y", sagittal: "x" }[plane.name];
      const where = axis ? `slice ${index + 1} of ${plane.count}, ${axis} = ${plane.positions[index].toFixed(1)} mm` : "";
      output.textContent = where;
      range.setAttribute("aria-valuetext", where);
      const shown = mode.id === "flicker" ? (state.swapped ? "warped image" : "fixed image") : mode.name;
      canvas.setAttribute("aria-label", `${title(plane.name)} plane, ${where}: ${shown}. ${mode.note}`);
    }
    document.documentElement.dataset.drawn = state.mode;
  };

  const radio = (parent, group, id, name, change) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const span = document.createElement("span");
    input.type = "radio"; input.name = group; input.value = id;
    span.textContent = name;
    label.append(input, span); parent.append(label);
    input.addEventListener("change", () => change(id));
    return input;
  };
  const legendOf = (mode) => {
    const items = [];
    const swatch = (colour, text) => {
      const item = document.createElement("span"), box = document.createElement("i");
      box.style.background = colour; item.append(box, text); items.push(item);
    };
    const scale = (colours, low, middle, high) => {
      const item = document.createElement("span"), bar = document.createElement("span");
      bar.className = "ramp"; bar.style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
      item.append(low, bar, high); items.push(item);
      if (middle) { const text = document.createElement("span"); text.textContent = middle; items.push(text); }
    };
    if (mode.moved) { swatch(BLUE, "brighter in the fixed image"); swatch(ORANGE, "brighter in the moving image"); }
    if (mode.id === "lattice") swatch(LINES, `lines ${stepMm} mm apart in the moving image`);
    if (mode.id === "jacobian") scale(VOLUME_RAMP, "half the volume", "middle: no change", "double the volume");
    if (mode.id === "error") scale(ERROR_RAMP, "0 mm", "", `${data.errorMm.toFixed(1)} mm and more`);
    if (state.outlined) data.regions.forEach((name, k) => swatch(OUTLINE_COLOURS[(k % 255) % OUTLINE_COLOURS.length], name));
    document.getElementById("legend").replaceChildren(...items);
  };
  let timer = 0;
  const show = () => {
    const mode = byId[state.mode];
    document.getElementById("mode-note").textContent = mode.note;
    for (const input of document.querySelectorAll("#modes input")) input.checked = input.value === state.mode;
    for (const input of document.querySelectorAll("#layouts input")) input.checked = input.value === state.layout;
    document.getElementById("outline").checked = state.outlined;
    document.getElementById("planes").classList.toggle("one", state.layout !== "all" || data.planes.length === 1);
    for (const plane of data.planes) {
      const { figure, range } = figures[plane.name];
      figure.hidden = state.layout !== "all" && state.layout !== plane.name;
      range.value = state.index[plane.name];
    }
    legendOf(mode);
    const swap = document.getElementById("swap");
    swap.hidden = mode.id !== "flicker";
    swap.textContent = state.paused ? "Swap once" : "Pause";
    clearInterval(timer);
    if (mode.id === "flicker" && !state.paused)
      timer = setInterval(() => { state.swapped = !state.swapped; refresh(); }, MILLISECONDS);
    refresh();
    remember();
  };
  const remember = () => {
    const words = new URLSearchParams({ mode: state.mode, planes: state.layout, ...state.index });
    if (state.outlined) words.set("outline", "1");
    try { history.replaceState(null, "", "#" + words); } catch (refused) { /* some viewers forbid it */ }
  };
  const recall = () => {
    const words = new URLSearchParams(location.hash.slice(1));
    if (!words.has("mode")) return;
    if (byId[words.get("mode")]) state.mode = words.get("mode");
    const layout = words.get("planes");
    if (layout === "all" || data.planes.some((p) => p.name === layout)) state.layout = layout;
    state.outlined = words.get("outline") === "1";
    for (const plane of data.planes) {
      const index = parseInt(words.get(plane.name), 10);
      if (index >= 0 && index < plane.count) state.index[plane.name] = index;
    }
  };

  const build = () => {
    // All planes at one scale.
    const share = data.planes.map((p) => `minmax(0, ${Math.round(p.columns * p.pixelMm)}fr)`).join(" ");
    document.documentElement.style.setProperty("--columns", share);
    for (const mode of MODES)
      radio(document.getElementById("modes"), "mode", mode.id, mode.name, (id) => { state.mode = id; show(); });
    const layouts = document.getElementById("layouts");
    if (data.planes.length > 1)
      for (const [id, name] of [["all", "All three"], ...data.planes.map((p) => [p.name, title(p.name)])])
        radio(layouts, "layout", id, name, (chosen) => { state.layout = chosen; show(); });
    else layouts.hidden = true;
    const outline = document.getElementById("outline");
    outline.addEventListener("change", () => { state.outlined = outline.checked; show(); });
    if (!data.regions.length) outline.closest("label").hidden = true;
    document.getElementById("swap").addEventListener("click", () => {
      if (state.paused) { state.swapped = !state.swapped; refresh(); } else { state.paused = true; show(); }
    });
    document.getElementById("viewer").addEventListener("submit", (event) => event.preventDefault());
    for (const plane of data.planes) {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption"), name = document.createElement("span");
      const output = document.createElement("output"), range = document.createElement("input");
      canvas.setAttribute("role", "img"); canvas.id = "canvas-" + plane.name;
      name.textContent = title(plane.name);
      range.type = "range"; range.min = 0; range.max = plane.count - 1; range.step = 1;
      range.id = "slider-" + plane.name;
      range.setAttribute("aria-label", `${title(plane.name)} slice`);
      range.hidden = plane.count < 2;
      range.addEventListener("input", () => {
        state.index[plane.name] = +range.value; refresh([plane.name]); remember();
      });
      caption.append(name, output); figure.append(canvas, range, caption);
      document.getElementById("planes").append(figure);
      figures[plane.name] = { figure, canvas, output, range };
    }
  };

  /* Paper shows what the switch would: every important mode at the slices that are chosen. */
  const PRINTED = ["fixed", "warped", "difference-before", "difference-after", "lattice", "jacobian"];
  addEventListener("beforeprint", () => {
    const lines = [];
    for (const mode of MODES.filter((m) => PRINTED.includes(m.id) || m.needsError)) {
      const loaded = (plane) => [...mode.layers, "labels", "flags"].every((name) => layer(plane, name).bytes);
      if (!data.planes.every(loaded)) continue;
      const line = document.createElement("div"), text = document.createElement("p");
      line.className = "line-of"; text.textContent = mode.name;
      line.append(text);
      for (const plane of data.planes) {
        const canvas = document.createElement("canvas");
        draw(canvas, plane, state.index[plane.name], mode, { outlined: false, swapped: false });
        line.append(canvas);
      }
      lines.push(line);
    }
    const key = document.createElement("p");
    key.textContent = "Differences: blue is brighter in the fixed image, orange in the moving image, grey where both agree; " +
      "hatched is not seen by the moving image. log det J: purple is half the volume, white no change, brown double. " +
      data.planes.filter((p) => p.letters).map((p) => `${title(p.name)}: ${figures[p.name].output.textContent}`).join("; ") + ".";
    document.getElementById("contact").replaceChildren(...lines, key);
  });

  if (matchMedia("(prefers-reduced-motion: reduce)").matches) state.paused = true;
  recall();
  build();
  show();
  addEventListener("hashchange", () => { recall(); show(); });
  (async () => {
    await refresh();
    for (const mode of MODES) for (const plane of data.planes) await load(plane, mode);
    document.documentElement.dataset.ready = "1";
  })();
})();
