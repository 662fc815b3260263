// A job as it happens: pieces of the page are replaced when they have changed, the curves are drawn anew.
"use strict";

(() => {
  const page = document.querySelector("[data-watch]");
  if (!page) return;
  const shown = new Map();
  const connection = document.getElementById("connection");
  const source = new EventSource(page.dataset.watch);
  let chart = null;
  let latest = null;

  source.addEventListener("open", () => { connection.hidden = true; });
  source.addEventListener("error", () => {
    connection.hidden = false;
    if (source.readyState === EventSource.CLOSED) connection.textContent = "No news from the server; reload the page.";
  });
  source.addEventListener("end", () => { source.close(); });
  source.addEventListener("regions", (event) => {
    for (const [place, html] of Object.entries(JSON.parse(event.data))) {
      if (shown.get(place) !== html) replace(document.getElementById(place), html, shown.has(place));
      shown.set(place, html);
    }
    const reported = document.getElementById("job-results").childElementCount > 0;
    document.getElementById("live").hidden = reported;
  });
  source.addEventListener("curves", (event) => {
    latest = JSON.parse(event.data);
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { discard(); draw(); });
  new ResizeObserver(() => {
    const place = document.getElementById("chart");
    if (chart && place.clientWidth) chart.setSize(size(place));
  }).observe(document.getElementById("chart"));

  // The first state is what the page already shows; a details element stays as open as it was.
  function replace(place, html, changed) {
    if (!changed && place.innerHTML.trim() === html.trim()) return;
    const open = Boolean(place.querySelector("details[open]"));
    const focused = place.contains(document.activeElement);
    place.innerHTML = html;
    const details = place.querySelector("details");
    if (details && open) details.open = true;
    if (focused) (place.querySelector("button, a, summary") || document.getElementById("main")).focus();
  }

  function draw() {
    const enough = latest !== null && latest.steps.length > 1;
    document.getElementById("chart-empty").hidden = enough;
    if (!enough) return;
    const data = [latest.steps, latest.training, latest.smoothed, latest.validation];
    if (chart) chart.setData(data);
    else chart = new uPlot(options(document.getElementById("chart")), data, document.getElementById("chart"));
    showLatest(chart);
    describe();
  }

  // The legend tells the latest values, unless a pointer asks for others.
  function showLatest(chart) {
    if (!(chart.cursor.left >= 0)) chart.setLegend({ idx: latest.steps.length - 1 });
  }

  // Each verdict where it was reached, as the report draws it: a dotted line and a disc.
  function drawMarks(chart) {
    const css = getComputedStyle(document.documentElement);
    const { ctx, bbox } = chart;
    const scale = devicePixelRatio;
    const [from, until] = [chart.scales.x.min, chart.scales.x.max];
    ctx.save();
    for (const mark of latest.marks.filter((each) => each.step >= from && each.step <= until)) {
      const x = chart.valToPos(mark.step, "x", true);
      const radius = 8 * scale;
      ctx.strokeStyle = ctx.fillStyle = css.getPropertyValue(mark.status === "note" ? "--base" : `--${mark.status}`).trim();
      ctx.lineWidth = scale;
      ctx.setLineDash([2 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + 2 * radius);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, bbox.top + radius, radius, 0, 2 * Math.PI);
      ctx.fill();
      ctx.fillStyle = css.getPropertyValue("--card").trim();
      ctx.font = `bold ${12 * scale}px sans-serif`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.fillText("!", x, bbox.top + radius);
    }
    ctx.restore();
  }

  function discard() {
    if (chart) chart.destroy();
    chart = null;
  }

  function describe() {
    const last = latest.steps.length - 1;
    const trained = latest.smoothed.filter((value) => value !== null).at(-1);
    const validated = latest.validation.filter((value) => value !== null).at(-1);
    const validation = validated === undefined ? "" : `, validation loss ${validated.toFixed(3)}`;
    document.getElementById("chart").setAttribute(
      "aria-label",
      `Loss by step. Step ${latest.steps[last]} of ${latest.total_steps}: training loss ` +
        `${trained === undefined ? "not yet known" : trained.toFixed(3)}${validation}` +
        latest.marks.map((mark) => `. Step ${mark.step}: ${mark.finding}`).join(""),
    );
  }

  function options(place) {
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--quiet"),
      font: '12px ui-sans-serif, system-ui, "Liberation Sans", sans-serif',
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
    };
    const number = (_chart, value) => (value === null ? "-" : value.toFixed(3));
    return {
      ...size(place),
      legend: { markers: { show: false } },
      hooks: { draw: [drawMarks], ready: [showLatest], setCursor: [showLatest] },
      cursor: { drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [{ ...axis, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 48 }],
      series: [
        { label: "step" },
        { label: "training", stroke: color("--base") + "66", width: 1, points: { show: false }, value: number },
        { label: "smoothed", stroke: color("--base"), width: 2, points: { show: false }, value: number },
        {
          label: "validation", stroke: color("--tuned"), width: 2, spanGaps: true, value: number,
          points: { show: true, size: 7, fill: color("--tuned"), stroke: color("--card") },
        },
      ],
    };
  }

  function size(place) {
    return { width: place.clientWidth, height: place.clientWidth < 500 ? 240 : 300 };
  }
})();
