// Joins the parts: which plan is shown, which op is chosen, and what the pointer is on.

const data = JSON.parse(byId("data").textContent);

class Page {
  constructor() {
    this.chosen = null;
    this.timeline = new Timeline(byId("timeline"), this);
    this.graph = new Graph(byId("graph"), byId("overview"), this);
    this.table = new OperatorTable(byId("operators"), this);
  }

  show(index) {
    this.plan = data.plans[index];
    this.chosen = null;
    this.readers = this.plan.ops.map(() => []);
    this.plan.ops.forEach((op, number) => op.sources.forEach((from) => this.readers[from].push(number)));
    this.setColours();
    showFacts(this.plan);
    showKernels(byId("kernels"), this.plan);
    const both = this.plan.runs && this.plan.ops[0].predicted;
    byId("predicted-label").hidden = !both;
    this.timeline.show();
    this.graph.show();
    this.table.show();
    this.showChosen();
  }

  setColours() {
    const { of, legend } = COLOURS[byId("colour").value](this.plan);
    this.colour = of;
    byId("legend").replaceChildren(...legend.map(([colour, text]) => {
      const swatch = make("i");
      if (colour) swatch.style.background = colour;
      return make("li", {}, ...(colour ? [swatch] : []), text);
    }));
  }

  recolour() {
    this.setColours();
    this.timeline.recolour();
    this.graph.recolour();
  }

  near(index) {
    return [...this.plan.ops[index].sources, ...this.readers[index]];
  }

  choose(index) {
    this.chosen = index;
    if (index !== null) {
      this.timeline.reveal(index);
      this.graph.reveal(index);
    }
    this.showChosen();
  }

  showChosen() {
    this.timeline.redraw();
    this.graph.mark();
    this.table.mark();
    const box = byId("op");
    box.hidden = this.chosen === null;
    if (this.chosen === null) return;
    const op = this.plan.ops[this.chosen];
    const close = make("button", { type: "button", class: "close", "aria-label": "let go" }, "×");
    close.addEventListener("click", () => this.choose(null));
    const parts = [close, make("h3", {}, op.name), describe(op)];
    parts.push(...this.links("Reads results of", op.sources));
    parts.push(...this.links("Is read by", this.readers[this.chosen]));
    box.replaceChildren(...parts);
  }

  links(title, ops) {
    if (!ops.length) return [];
    const buttons = ops.map((index) => {
      const button = make("button", { type: "button" }, this.plan.ops[index].name);
      button.addEventListener("click", () => this.choose(index));
      return button;
    });
    return [make("h4", {}, title), make("div", { class: "list" }, ...buttons)];
  }

  hover(index, x, y) {
    const tip = byId("tooltip");
    tip.hidden = index === null;
    if (index === null) return;
    if (tip.dataset.op !== String(index) || tip.dataset.batch !== String(this.plan.batch)) {
      const op = this.plan.ops[index];
      tip.dataset.op = index;
      tip.dataset.batch = this.plan.batch;
      tip.replaceChildren(make("h3", {}, op.name), describe(op));
    }
    const { width, height } = tip.getBoundingClientRect();
    const right = x + 16 + width > window.innerWidth ? x - width - 12 : x + 16;
    const below = y + 18 + height > window.innerHeight ? y - height - 12 : y + 18;
    tip.style.left = `${Math.max(right, 4)}px`;
    tip.style.top = `${Math.max(below, 4)}px`;
  }
}

/** The op's properties, as a description list. */
function describe(op) {
  const times = [];
  if (op.in_plan_us !== null) {
    times.push(["time in plan", timeText(op.in_plan_us)]);
    times.push(["in this run", `${timeText(op.measured[1] - op.measured[0])}, from ${timeText(op.measured[0])}`]);
  }
  if (op.predicted) {
    times.push(["predicted", `${timeText(op.predicted[1] - op.predicted[0])}, from ${timeText(op.predicted[0])}`]);
  }
  const where = op.threads > 1 ? `all ${op.threads} streams` : `stream ${op.stream}`;
  return descriptions([
    ["what", op.what || "unknown"],
    ["kernel", op.kernel],
    ["reads", op.reads || "constants only"],
    ["writes", op.writes],
    ["place", `stage ${op.stage}, group ${op.group}, ${where}`],
    ...times,
    ["time alone", timeText(op.solo_us)],
    ["speed", `${numberText(op.gflops)} GFLOP/s, ${numberText(op.gb_per_s)} GB/s`],
    ["of the roofline", percentText(op.roofline_percent)],
  ]);
}

function descriptions(pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}

function showFacts(plan) {
  const measured = plan.runs ? lastEnd(plan, "measured") : plan.measured_us;
  const facts = [
    plan.runs
      ? ["measured run", timeText(measured), `20th percentile of ${plan.runs}; ${timeText(plan.measured_us)} when built`]
      : ["measured when built", timeText(measured), "not run now"],
    ["predicted run", timeText(plan.predicted_us), prediction(plan, measured)],
    ["throughput", measured ? `${((plan.batch * 1e6) / measured).toFixed(1)} / s` : "unknown", "one run after the other"],
    ["operators", `${plan.ops.length}`, `${counted(plan.layout_changes, "layout change")} among them`],
    ["schedule", counted(plan.stages, "stage"), `${counted(plan.groups, "group")} on ${counted(plan.streams, "stream")}, by ${plan.partitioner}`],
    ["weights", bytesText(plan.weights_bytes), `kernels ${bytesText(data.kernels_bytes)}`],
    ["intermediate results", bytesText(plan.arena_bytes), "allocated for a run"],
  ];
  byId("facts").replaceChildren(...facts.map(([name, value, note]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", { class: "note" }, note)))));
}

function prediction(plan, measured) {
  if (!plan.predicted_us || !measured) return "by the simulator";
  const percent = 100 * (plan.predicted_us / measured - 1);
  return `${Math.abs(percent).toFixed(1)} % ${percent < 0 ? "below" : "above"} the measured one`;
}

function showHeader() {
  byId("name").textContent = data.name;
  byId("subtitle").textContent =
    `${data.precision}, for ${data.target}, by ${data.creator}` + (data.device ? `; run on ${data.device}` : "");
  const select = byId("batch");
  data.plans.forEach((plan, index) => select.append(make("option", { value: index }, `${plan.batch}`)));
  select.disabled = data.plans.length === 1;
  const notice = byId("notice");
  notice.hidden = !data.not_measured;
  const predicted = data.plans.every((plan) => plan.ops.every((op) => op.predicted));
  notice.textContent = `Not measured: ${data.not_measured}. ${predicted
    ? "What follows is what the simulator predicts."
    : "The file has no predicted run either, so there is no timeline."}`;
  const limit = (key, unit) => (data.roofline[key] === null ? "unknown" : `${data.roofline[key].toFixed(0)} ${unit}`);
  const versions = Object.entries(data.libraries).map(([name, version]) => `${name} ${version}`);
  byId("device").querySelector("dl").replaceWith(descriptions([
    ["CPU features used", data.cpu_features.join(", ") || "none beyond the base"],
    ["kernel libraries", versions.join(", ") || "none: TVM generates all kernels"],
    ["roofline, one thread", `${limit("single_gflops", "GFLOP/s")}, ${limit("single_gb_per_s", "GB/s")}`],
    ["roofline, all threads", `${limit("gang_gflops", "GFLOP/s")}, ${limit("gang_gb_per_s", "GB/s")}`],
  ]));
}

/** Wheel movement in pixels, whatever unit the browser reports. */
function wheelPixels(event) {
  const delta = Math.abs(event.deltaY) > Math.abs(event.deltaX) ? event.deltaY : event.deltaX;
  return delta * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
}

/** The op under the pointer, or null. */
function opOf(event) {
  const op = event.target.dataset?.op;
  return op === undefined ? null : Number(op);
}

/** Tell dragging from clicking: a click moves less than a few pixels. */
function dragging(box, { start, move, click }) {
  let last = null;
  let far = 0;
  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    last = event;
    far = 0;
    start?.(event);
  });
  // On the window: the pointer may leave the box while it drags.
  window.addEventListener("pointermove", (event) => {
    if (!last) return;
    far += Math.abs(event.clientX - last.clientX) + Math.abs(event.clientY - last.clientY);
    if (far > 4) {
      box.classList.add("dragging");
      move(event.clientX - last.clientX, event.clientY - last.clientY, event);
    }
    last = event;
  });
  window.addEventListener("pointerup", (event) => {
    if (last && far <= 4 && box.contains(event.target)) click?.(event);
    last = null;
    box.classList.remove("dragging");
  });
}

theme();
showHeader();
for (const name of Object.keys(COLOURS)) byId("colour").append(make("option", {}, name));
const page = new Page();
page.show(0);
byId("batch").addEventListener("change", (event) => page.show(Number(event.target.value)));
byId("colour").addEventListener("change", () => page.recolour());
byId("predicted").addEventListener("change", () => page.timeline.arrange());
byId("timeline-in").addEventListener("click", () => page.timeline.zoom(0.6));
byId("timeline-out").addEventListener("click", () => page.timeline.zoom(1 / 0.6));
byId("timeline-fit").addEventListener("click", () => page.timeline.move(0, page.timeline.full.end));
byId("graph-in").addEventListener("click", () => page.graph.zoom(1.4));
byId("graph-out").addEventListener("click", () => page.graph.zoom(1 / 1.4));
byId("graph-fit").addEventListener("click", () => page.graph.fit());
