"use strict";
(() => {
  const frames = JSON.parse(document.getElementById("frames").textContent);
  const phase = document.getElementById("phase");
  const play = document.getElementById("play");
  const told = document.getElementById("told");
  const count = frames.seen.length;
  let timer = 0;

  const show = () => {
    const k = Number(phase.value);
    told.textContent = `phase ${k}`;
    for (const kind of ["seen", "still"]) {
      frames[kind][k].forEach((data, plane) => {
        document.getElementById(`${kind}-${plane}`).src = data;
      });
    }
  };

  const step = () => {
    phase.value = String((Number(phase.value) + 1) % count);
    show();
  };

  play.addEventListener("click", () => {
    if (timer) {
      clearInterval(timer);
      timer = 0;
    } else {
      timer = setInterval(step, 160);
    }
    play.textContent = timer ? "Pause" : "Play";
  });
  phase.addEventListener("input", show);
  show();
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) play.click();
  document.documentElement.dataset.ready = "1";
})();
