// Charts of a load test over time; every series has one value per bin.

const data = JSON.parse(byId("data").textContent);
const LEFT = 64;
const HEIGHT = 180;
const BOTTOM = 24;

/** A chart: `series` are [name, colour, values], `points` are [seconds, value]. */
function chart(title, series, { points = [], names = null } = {}) {
  const box = make("div", { class: "chart" });
  const legend = series.map(([name]) => name).join(", ");
  const section = make("section", {},
    make("div", { class: "bar" }, make("h2", {}, title), make("span", { class: "hint" }, legend)), box);
  byId("charts").append(section);
  const render = () => {
    const width = Math.max(box.clientWidth, 200);
    const seconds = data.bin_s * data.backlog.length;
    const shown = [...series.flatMap(([, , values]) => values), ...points.map(([, value]) => value)];
    const top = names ? names.length : Math.max(1e-9, ...shown.filter((value) => value !== null)) * 1.08;
    const x = (time) => LEFT + ((width - LEFT - 12) * time) / seconds;
    const y = (value) => 8 + (HEIGHT - 8) * (1 - value / top);
    const parts = [];
    const marks = names ? names.map((_, index) => index) : ticks(0, top, 4).marks;
    for (const mark of marks) {
      const at = y(names ? mark + 0.5 : mark);
      const text = names ? fitted(names[mark], LEFT - 8) : `${Number(mark.toPrecision(3))}`;
      parts.push(draw("line", { class: "grid", x1: LEFT, x2: width, y1: at, y2: at }));
      parts.push(draw("text", { class: "quiet", x: LEFT - 6, y: at + 4, "text-anchor": "end" }, text));
    }
    for (const mark of ticks(0, seconds, Math.max(width / 140, 1)).marks) {
      const text = `${Number(mark.toPrecision(4))} s`;
      if (x(mark) + textWidth(text) < width) {
        parts.push(draw("text", { class: "quiet", x: x(mark), y: HEIGHT + 16 }, text));
      }
    }
    for (const [time, value] of points) {
      parts.push(draw("circle", { cx: x(time), cy: y(value), r: 1.5, fill: PALETTE[0], "fill-opacity": 0.5 }));
    }
    for (const [name, colour, values] of series) {
      let path = "";
      let pen = false;
      values.forEach((value, index) => {
        if (value !== null) {
          path += `${pen ? "L" : "M"}${x((index + 0.5) * data.bin_s)},${y(names ? value + 0.5 : value)}`;
        }
        pen = value !== null;
      });
      parts.push(draw("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2 },
        draw("title", {}, name)));
    }
    box.replaceChildren(draw("svg", { width, height: HEIGHT + BOTTOM, role: "img", "aria-label": title }, ...parts));
  };
  render();
  window.addEventListener("resize", render);
}

/** What ran side by side: a bar is an instance in a segment, of the colour of the instance. */
function timeline({ rows, bars, begin_s: begin, end_s: end }) {
  const ROW = 18;
  const box = make("div", { class: "chart", id: "timeline" });
  const hint = bars.length ? "around the longest backlog; a colour is a task, or a batch of them" : "nothing ran";
  byId("charts").append(make("section", {},
    make("div", { class: "bar" }, make("h2", {}, "Merged timeline"), make("span", { class: "hint" }, hint)), box));
  if (bars.length === 0) return;
  const render = () => {
    const width = Math.max(box.clientWidth, 200);
    const left = Math.min(width / 3, 12 + Math.max(...rows.map((row) => textWidth(row))));
    const height = rows.length * ROW;
    const x = (time) => left + ((width - left - 12) * (time - begin)) / Math.max(end - begin, 1e-9);
    const parts = rows.map((row, index) =>
      draw("text", { class: "quiet", x: left - 6, y: index * ROW + 13, "text-anchor": "end" }, fitted(row, left - 8)));
    for (const mark of ticks(begin, end, Math.max(width / 140, 1)).marks) {
      const text = `${Number((1e3 * mark).toPrecision(7))} ms`;
      parts.push(draw("line", { class: "grid", x1: x(mark), x2: x(mark), y1: 0, y2: height }));
      if (x(mark) + textWidth(text) < width) {
        parts.push(draw("text", { class: "quiet", x: x(mark), y: height + 16 }, text));
      }
    }
    for (const bar of bars) {
      const from = Math.max(x(bar.begin_s), left);
      const ms = 1e3 * (bar.end_s - bar.begin_s);
      const batch = bar.tasks === 1 ? "" : `, a batch of ${bar.tasks}`;
      parts.push(draw("rect", {
        x: from, y: bar.row * ROW + 2, width: Math.max(x(bar.end_s) - from, 1), height: ROW - 4,
        fill: PALETTE[bar.instance % PALETTE.length],
      }, draw("title", {}, `${rows[bar.row]}: launch ${bar.instance}${batch}, ${ms.toFixed(3)} ms, variant ${bar.variant}`)));
    }
    const size = { width, height: height + BOTTOM };
    box.replaceChildren(draw("svg", { ...size, role: "img", "aria-label": "Merged timeline" }, ...parts));
  };
  render();
  window.addEventListener("resize", render);
}

const result = data.result;
const ms = (value) => (value === null ? "none" : `${value.toFixed(2)} ms`);
theme();
byId("name").textContent = data.name;
byId("subtitle").textContent = `${result.simulated ? "simulated" : "live"}, ${result.arrivals} arrivals, ` +
  `mode ${result.mode}, controller ${result.controller}, seed ${result.seed}, ${result.elapsed_s.toFixed(1)} s` +
  (result.interrupted ? ", interrupted" : "");
byId("facts").replaceChildren(...[
  ["completed", `${result.completed}`, `of ${result.submitted}`],
  ["not completed", `${result.submitted - result.completed}`,
    `${result.rejected} rejected, ${result.expired} expired, ${result.cancelled} cancelled, ${result.failed} failed`],
  ["throughput", `${result.throughput.toFixed(1)} / s`, `in time ${result.goodput.toFixed(1)} / s`],
  ["p50", ms(result.p50_ms), "from the intended arrival"],
  ["p99", ms(result.p99_ms), `p95 ${ms(result.p95_ms)}`],
  ["longest backlog", `${result.backlog_max}`, "tasks"],
  ["utilisation", percentText(100 * result.utilisation), "of all streams"],
].map(([name, value, note]) =>
  make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", { class: "note" }, note)))));
chart("Latency, ms", [["p50 (blue)", "#2f7fd1", data.p50_ms], ["p99 (orange)", "#d1662f", data.p99_ms]],
  { points: data.points });
chart("Backlog, tasks", [["most at a time", "#2f7fd1", data.backlog]]);
chart("Tasks per second", [["completed (blue)", "#2f7fd1", data.throughput], ["in time (orange)", "#d1662f", data.goodput]]);
chart("Variant", [["most often", "#2f7fd1", data.variant]], { names: data.variant_names });
chart("Utilisation", [["share of the streams' time", "#2f7fd1", data.utilisation]]);
timeline(data.timeline);
