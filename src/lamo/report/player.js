"use strict";
// Plays the rollouts of one section side by side, on one clock. Data: the JSON block "rollouts", made by page.py and checked there.
(() => {
  const traces = JSON.parse(document.getElementById("rollouts").textContent);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const redraw = [];

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const round = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 10) / 10));

  function niceStep(span) {
    const power = 10 ** Math.floor(Math.log10(span / 4));
    return [1, 2, 5, 10].map((m) => m * power).find((step) => span / step <= 5);
  }

  function drawBody(context, width, height, trace, index) {
    const [x0, y0, x1, y1] = trace.bounds;
    const frame = trace.frames[index];
    const scale = Math.min(width / (x1 - x0), height / (y1 - y0)) * 0.94;
    let centre = 0;
    if (trace.follow) {
      let low = Infinity, high = -Infinity;
      for (let i = 0; i < frame.length; i += 2) { low = Math.min(low, frame[i]); high = Math.max(high, frame[i]); }
      centre = (low + high) / 2;
    }
    const middleX = (x0 + x1) / 2 + centre, middleY = (y0 + y1) / 2;
    const px = (x) => width / 2 + (x - middleX) * scale;
    const py = (y) => height / 2 - (y - middleY) * scale;

    const step = niceStep(Math.max(width, height) / scale);
    context.strokeStyle = variable("--line");
    context.lineWidth = 1;
    context.beginPath();
    const left = middleX - width / 2 / scale, right = middleX + width / 2 / scale;
    for (let x = Math.ceil(left / step) * step; x <= right; x += step) { context.moveTo(px(x), 0); context.lineTo(px(x), height); }
    const low = middleY - height / 2 / scale, high = middleY + height / 2 / scale;
    if (trace.view === "xy") {
      for (let y = Math.ceil(low / step) * step; y <= high; y += step) { context.moveTo(0, py(y)); context.lineTo(width, py(y)); }
    }
    context.stroke();
    if (trace.view === "xz" && low < 0 && high > 0) {
      context.strokeStyle = variable("--fig-muted");
      context.lineWidth = 1.5;
      context.beginPath(); context.moveTo(0, py(0)); context.lineTo(width, py(0)); context.stroke();
    }

    context.lineCap = "round";
    trace.parts.forEach((part, i) => {
      const [ax, ay, bx, by] = frame.slice(4 * i, 4 * i + 4);
      const thick = Math.max(2 * part.radius * scale, 2);
      const colour = part.colour || variable(trace.series);
      // An outline in the ink of the page keeps a part visible whatever colour the environment gave it.
      for (const [paint, extra] of [[variable("--fig-ink"), 1.6], [colour, 0]]) {
        context.beginPath();
        if (Math.hypot(bx - ax, by - ay) * scale < 0.5) {
          context.fillStyle = paint;
          context.arc(px(ax), py(ay), (thick + extra) / 2, 0, 2 * Math.PI);
          context.fill();
        } else {
          context.strokeStyle = paint;
          context.lineWidth = thick + extra;
          context.moveTo(px(ax), py(ay)); context.lineTo(px(bx), py(by));
          context.stroke();
        }
      }
    });
  }

  function drawCurves(context, width, height, trace, index) {
    const rows = trace.observations, dims = rows[0].length;
    context.lineWidth = 1.2;
    context.strokeStyle = variable(trace.series);
    for (let d = 0; d < dims; d++) {
      const values = rows.map((row) => row[d]);
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const top = (height * d) / dims, tall = height / dims;
      context.beginPath();
      values.forEach((value, t) => {
        const y = top + tall * (0.88 - (0.76 * (value - low)) / (high - low || 1));
        context.lineTo((width * t) / Math.max(rows.length - 1, 1), y);
      });
      context.stroke();
    }
    const at = (width * index) / Math.max(rows.length - 1, 1);
    context.strokeStyle = variable("--ink");
    context.beginPath(); context.moveTo(at, 0); context.lineTo(at, height); context.stroke();
  }

  function view(canvas) {
    const trace = traces[Number(canvas.dataset.rollout)];
    const output = canvas.parentElement.querySelector("output");
    const frames = trace.rewards.length;
    return {
      duration: frames * trace.seconds_per_frame,
      draw(time) {
        const index = Math.max(0, Math.min(frames - 1, Math.floor(time / trace.seconds_per_frame)));
        const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = width * (trace.view === "xz" ? 0.72 : 1);
        if (!width) return;
        if (canvas.width !== Math.round(width * ratio)) {
          canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
        }
        const context = canvas.getContext("2d");
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, width, height);
        (trace.kind === "segments" ? drawBody : drawCurves)(context, width, height, trace, index);
        const step = Math.round((index * trace.length) / Math.max(frames - 1, 1));
        output.textContent = `step ${step} of ${trace.length}, return so far ${round(trace.rewards[index])}`;
      },
    };
  }

  document.querySelectorAll(".theatre").forEach((theatre) => {
    const views = [...theatre.querySelectorAll("canvas")].map(view);
    const button = theatre.querySelector("button"), slider = theatre.querySelector("input"), speed = theatre.querySelector("select");
    const duration = Math.max(...views.map((v) => v.duration));
    let time = 0, playing = false, visible = false, last = null;

    const draw = () => { views.forEach((v) => v.draw(time)); slider.value = String(Math.round((1000 * time) / duration)); };
    const tick = (now) => {
      if (!playing || !visible) { last = null; return; }
      if (last !== null) time += ((now - last) / 1000) * Number(speed.value);
      last = now;
      if (time > duration + 0.8 * Number(speed.value)) time = 0; // rest on the last frame, then again from the start
      draw();
      requestAnimationFrame(tick);
    };
    const play = (on) => {
      const start = on && (!playing || last === null);
      playing = on;
      button.textContent = on ? "Pause" : "Play";
      if (start && visible) requestAnimationFrame(tick);
    };
    button.addEventListener("click", () => { if (!playing && time >= duration) time = 0; play(!playing); });
    slider.addEventListener("input", () => { play(false); time = (Number(slider.value) / 1000) * duration; draw(); });
    new IntersectionObserver((entries) => {
      const before = visible;
      visible = entries[entries.length - 1].isIntersecting;
      if (visible && !before && playing) { last = null; requestAnimationFrame(tick); }
    }).observe(theatre);
    redraw.push(draw);
    draw();
    play(!calm);
  });

  const all = () => redraw.forEach((draw) => draw());
  addEventListener("resize", all);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
