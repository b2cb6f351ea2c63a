// Ops over time, a row per stream: measured, predicted, and the memory that they use.

const GUTTER = 92;
const MARGIN_RIGHT = 14;
const AXIS_HEIGHT = 28;
const STAGE_HEIGHT = 18;
const TITLE_HEIGHT = 22;
const LEAST_SPAN_US = 0.2;

class Timeline {
  constructor(box, page) {
    this.box = box;
    this.page = page;
    this.svg = draw("svg", { width: 100, height: 100, role: "presentation" });
    box.append(this.svg);
    this.pending = 0;
    new ResizeObserver(() => this.redraw()).observe(box);
    this.listen();
  }

  show() {
    const { plan } = this.page;
    const ends = plan.ops.flatMap((op) => [op.measured?.[1] ?? 0, op.predicted?.[1] ?? 0]);
    this.full = { start: 0, end: Math.max(...ends, 1) * 1.01 };
    this.view = { ...this.full };
    this.arrange();
  }

  /** Rows from top to bottom. */
  arrange() {
    const { plan } = this.page;
    const main = plan.runs ? "measured" : "predicted";
    const wanted = byId("predicted").value;
    const both = plan.runs && wanted !== "hidden" && plan.ops[0].predicted;
    const stretched = both && wanted === "stretched";
    this.stretch = stretched ? lastEnd(plan, "measured") / lastEnd(plan, "predicted") : 1;
    const blocks = plan.ops[0][main] ? [main, ...(both ? ["predicted"] : [])] : [];
    let y = AXIS_HEIGHT + STAGE_HEIGHT;
    this.main = main;
    this.blocks = blocks.map((kind, index) => {
      const row = clamp((index ? 220 : 320) / plan.streams, 12, index ? 26 : 40);
      const block = { kind, title: y, y: y + TITLE_HEIGHT, row, height: row * plan.streams };
      y = block.y + block.height + 4;
      return block;
    });
    this.memory = { title: y, y: y + TITLE_HEIGHT + 4 };
    this.height = this.memory.y + MEMORY_HEIGHT + WEIGHTS_HEIGHT + 8;
    this.svg.setAttribute("height", this.height);
    this.build();
    this.redraw();
  }

  /** Make everything once; redraw() puts it in its place. */
  build() {
    const { plan } = this.page;
    this.grid = draw("g");
    this.fixed = draw("g");
    this.stages = draw("g", { class: "stages" });
    this.bars = draw("g", { class: "bars" });
    this.labels = draw("g");
    this.overlay = draw("g");
    this.area = draw("g", { transform: `translate(0 ${this.memory.y})` });
    this.cursor = draw("g");
    this.clip = draw("svg", { x: GUTTER, y: 0, height: this.height, width: 10 });
    this.clip.append(this.area, this.stages, this.bars, this.labels, this.overlay);
    this.svg.replaceChildren(this.grid, this.fixed, this.clip, this.cursor);
    this.items = [];
    for (const block of this.blocks) {
      plan.ops.forEach((op, index) => {
        const gang = op.threads > 1;
        const height = (gang ? block.height : block.row) - 2;
        const y = block.y + 1 + (gang ? 0 : op.stream * block.row);
        const shape = { class: `op ${block.kind}`, "data-op": index, y, height };
        const bar = draw("rect", shape);
        this.bars.append(bar);
        const [start, end] = op[block.kind];
        const scale = block.kind === this.main ? 1 : this.stretch;
        const item = { op, index, bar, y, height, time: [start * scale, end * scale] };
        this.items.push({ ...item, duration: end - start });
      });
    }
    this.steps = plan.memory[this.main] ?? [];
    this.stageStarts = stageStarts(plan, this.main);
    this.recolour();
  }

  recolour() {
    for (const item of this.items) item.bar.setAttribute("fill", this.page.colour(item.op));
  }

  x(us) {
    return ((us - this.view.start) / (this.view.end - this.view.start)) * this.width;
  }

  timeAt(clientX) {
    const share = (clientX - this.box.getBoundingClientRect().left - GUTTER) / this.width;
    return this.view.start + clamp(share, 0, 1) * (this.view.end - this.view.start);
  }

  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      if (this.view) this.paint();
    });
  }

  paint() {
    const total = this.box.clientWidth;
    this.width = Math.max(total - GUTTER - MARGIN_RIGHT, 50);
    this.svg.setAttribute("width", total);
    this.clip.setAttribute("width", this.width);
    this.paintAxis();
    this.paintStages();
    this.paintBars();
    this.paintSelection();
    drawMemory(this.area, this.page.plan, this.steps, this.view, (us) => this.x(us), this.width);
  }

  paintAxis() {
    const { plan } = this.page;
    const { step, marks } = ticks(this.view.start, this.view.end, this.width / 110);
    const milli = this.full.end >= 2000;
    const scale = milli ? 1000 : 1;
    const digits = Math.max(0, -Math.floor(Math.log10(step / scale) + 1e-9));
    const bottom = this.memory.y + MEMORY_HEIGHT + WEIGHTS_HEIGHT;
    const parts = [draw("text", { class: "quiet", x: 12, y: 18 }, `time, ${milli ? "ms" : "µs"}`)];
    for (const mark of marks) {
      const x = GUTTER + this.x(mark);
      const anchor = x > GUTTER + this.width - 20 ? "end" : x < GUTTER + 20 ? "start" : "middle";
      const at = { class: "quiet", x, y: 18, "text-anchor": anchor };
      parts.push(draw("line", { class: "grid", x1: x, x2: x, y1: AXIS_HEIGHT - 4, y2: bottom }));
      parts.push(draw("text", at, (mark / scale).toFixed(digits)));
    }
    this.grid.replaceChildren(...parts);

    const fixed = [draw("text", { class: "quiet", x: 12, y: AXIS_HEIGHT + 13 }, "stages")];
    for (const block of this.blocks) {
      const title = blockTitle(plan, block.kind, this.stretch);
      const at = { class: "strong", x: GUTTER, y: block.title + 15 };
      fixed.push(draw("text", at, fitted(title, this.width)));
      for (let stream = 0; stream < plan.streams; stream++) {
        const y = block.y + (stream + 0.5) * block.row + 4;
        fixed.push(draw("text", { class: "quiet", x: 12, y }, `stream ${stream}`));
        const row = { class: "row", x: GUTTER, width: this.width, y: y - block.row / 2 - 3 };
        fixed.push(draw("rect", { ...row, height: block.row - 2 }));
      }
    }
    const at = { class: "strong", x: GUTTER, y: this.memory.title + 15 };
    fixed.push(draw("text", at, fitted(memoryTitle(plan, this.steps), this.width)));
    const axis = draw("g", { transform: `translate(0 ${this.memory.y})` });
    drawMemoryAxis(axis, plan, this.steps, GUTTER - 8);
    fixed.push(axis);
    this.fixed.replaceChildren(...fixed);
  }

  paintStages() {
    const parts = [];
    this.stageStarts.forEach(([stage, start], index) => {
      const end = this.stageStarts[index + 1]?.[1] ?? this.full.end / 1.01;
      const left = Math.max(this.x(start), 0);
      const right = Math.min(this.x(end), this.width);
      if (right - left < 0.3) return;
      const y = AXIS_HEIGHT;
      const shape = { x: left, y, width: right - left, height: STAGE_HEIGHT - 2 };
      parts.push(draw("rect", { ...shape, fill: stageColour(stage) }));
      const text = [`stage ${stage}`, `${stage}`].find((t) => textWidth(t) < right - left - 4);
      const at = { class: "on-op", x: (left + right) / 2, y: y + 12, "text-anchor": "middle" };
      if (text) parts.push(draw("text", at, text));
    });
    this.stages.replaceChildren(...parts);
  }

  paintBars() {
    const labels = [];
    for (const item of this.items) {
      const left = this.x(item.time[0]);
      const right = this.x(item.time[1]);
      const visible = right > -2 && left < this.width + 2;
      item.bar.style.display = visible ? "" : "none";
      if (!visible) continue;
      const width = Math.max(right - left - (right - left > 3 ? 1 : 0), 0.6);
      item.bar.setAttribute("x", left.toFixed(2));
      item.bar.setAttribute("width", width.toFixed(2));
      item.bar.classList.toggle("thin", width < 3);
      this.label(item, Math.max(left, 0), Math.min(left + width, this.width), labels);
    }
    this.labels.replaceChildren(...labels);
  }

  /** The name of an op in the visible part of its bar, and its time below where there is room. */
  label(item, left, right, labels) {
    const room = right - left - 8;
    if (room < 34 || item.height < 11) return;
    const { op, y, height } = item;
    const time = timeText(item.duration);
    const lines = [fitted(room > 120 && op.what ? op.what : op.name, room)];
    if (height >= 30 && textWidth(time) <= room) lines.push(time);
    lines.forEach((line, index) => {
      const base = y + height / 2 + 4 + 13 * (index - (lines.length - 1) / 2);
      labels.push(draw("text", { class: "on-op", x: left + 4, y: base }, line));
    });
  }

  /** Outline the chosen op, and lines from what it reads and to who reads it. */
  paintSelection() {
    const chosen = this.page.chosen;
    const near = new Set(chosen === null ? [] : this.page.near(chosen));
    const parts = [];
    for (const item of this.items) {
      const dimmed = chosen !== null && item.index !== chosen && !near.has(item.index);
      item.bar.classList.toggle("dimmed", dimmed);
      item.bar.classList.toggle("chosen", item.index === chosen);
    }
    if (chosen !== null && this.blocks.length) {
      const bar = (index) => this.items[index];
      const line = (from, to, kind) => {
        const [x1, x2] = [this.x(bar(from).time[1]), this.x(bar(to).time[0])];
        const [y1, y2] = [from, to].map((i) => bar(i).y + bar(i).height / 2);
        const bend = Math.max((x2 - x1) / 2, 12);
        const d = `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
        parts.push(draw("path", { class: `link ${kind}`, d }));
      };
      for (const source of this.page.plan.ops[chosen].sources) line(source, chosen, "reads");
      for (const reader of this.page.readers[chosen]) line(chosen, reader, "readers");
    }
    this.overlay.replaceChildren(...parts);
  }

  paintCursor(clientX) {
    if (clientX === null) return this.cursor.replaceChildren();
    const us = this.timeAt(clientX);
    const x = GUTTER + this.x(us);
    const bottom = this.memory.y + MEMORY_HEIGHT;
    const text = `${timeText(us)}: ${bytesText(bytesAt(this.steps, us))} in use`;
    const flip = x + 8 + textWidth(text) > GUTTER + this.width;
    const at = { x: flip ? x - 6 : x + 6, y: this.memory.y + 10, "text-anchor": flip ? "end" : "start" };
    this.cursor.replaceChildren(
      draw("line", { class: "cursor", x1: x, x2: x, y1: AXIS_HEIGHT, y2: bottom }),
      draw("text", { ...at, class: "strong" }, text),
    );
  }

  /** Scale the visible span by a factor around a time. */
  zoom(factor, us = (this.view.start + this.view.end) / 2) {
    const old = this.view.end - this.view.start;
    const span = clamp(old * factor, LEAST_SPAN_US, this.full.end);
    this.move(us - ((us - this.view.start) / old) * span, span);
  }

  pan(share) {
    const span = this.view.end - this.view.start;
    this.move(this.view.start + share * span, span);
  }

  move(start, span) {
    const from = clamp(start, 0, this.full.end - span);
    this.view = { start: from, end: from + span };
    this.redraw();
  }

  /** Bring an op into view, wide enough to be seen. */
  reveal(index) {
    const time = this.items[index]?.time;
    if (!time) return;
    const span = this.view.end - this.view.start;
    const wide = ((time[1] - time[0]) / span) * this.width >= 8;
    if (wide && time[0] >= this.view.start && time[1] <= this.view.end) return;
    const wanted = wide ? span : Math.max((time[1] - time[0]) * 25, LEAST_SPAN_US);
    const next = clamp(Math.max(wanted, time[1] - time[0]), LEAST_SPAN_US, this.full.end);
    this.move((time[0] + time[1] - next) / 2, next);
  }

  listen() {
    const { box, page } = this;
    box.addEventListener("wheel", (event) => {
      const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
      const whole = this.view.end - this.view.start >= this.full.end * 0.9999;
      // Where there is nothing to zoom out of, the page scrolls.
      if (!sideways && event.deltaY > 0 && whole) return;
      event.preventDefault();
      const amount = wheelPixels(event);
      if (sideways) this.pan(amount / 800);
      else this.zoom(Math.exp(amount / 300), this.timeAt(event.clientX));
    }, { passive: false });
    dragging(box, {
      move: (dx) => this.pan(-dx / this.width),
      click: (event) => page.choose(opOf(event)),
    });
    box.addEventListener("pointermove", (event) => {
      this.paintCursor(event.clientX);
      page.hover(opOf(event), event.clientX, event.clientY);
    });
    box.addEventListener("pointerleave", () => {
      this.paintCursor(null);
      page.hover(null);
    });
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("blur", () => page.hover(null));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => this.pan(-0.15),
      ArrowRight: () => this.pan(0.15),
      a: () => this.pan(-0.15),
      d: () => this.pan(0.15),
      "+": () => this.zoom(0.7),
      "=": () => this.zoom(0.7),
      w: () => this.zoom(0.7),
      "-": () => this.zoom(1 / 0.7),
      s: () => this.zoom(1 / 0.7),
      0: () => this.move(0, this.full.end),
      Home: () => this.move(0, this.full.end),
      n: () => this.step(1),
      p: () => this.step(-1),
      Escape: () => this.page.choose(null),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Choose the next or previous op and show what the pointer would show. */
  step(by) {
    const count = this.page.plan.ops.length;
    const { chosen } = this.page;
    const next = chosen === null ? (by > 0 ? 0 : count - 1) : clamp(chosen + by, 0, count - 1);
    this.page.choose(next);
    requestAnimationFrame(() => {
      const bar = this.items[next]?.bar.getBoundingClientRect();
      if (bar) this.page.hover(next, bar.left + Math.min(bar.width, 60), bar.bottom);
    });
  }
}

/** Begin of every stage that has one: when the first of its ops starts. */
function stageStarts(plan, kind) {
  const starts = new Map();
  for (const op of plan.ops) {
    if (op[kind]) starts.set(op.stage, Math.min(starts.get(op.stage) ?? Infinity, op[kind][0]));
  }
  return [...starts].sort((a, b) => a[1] - b[1]);
}

function lastEnd(plan, kind) {
  return Math.max(...plan.ops.map((op) => op[kind][1]));
}

function blockTitle(plan, kind, stretch) {
  const total = timeText(lastEnd(plan, kind));
  if (kind === "predicted") {
    const scale = stretch === 1 ? "" : ", drawn as long as the measured run";
    return `Predicted by the simulator: ${total}${scale}`;
  }
  return `Measured: ${total}, the 20th percentile of ${plan.runs} runs`;
}

function memoryTitle(plan, steps) {
  const peak = bytesText(Math.max(0, ...steps.map((step) => step[1])));
  const arena = bytesText(plan.arena_bytes);
  return `Memory for intermediate results: at most ${peak} in use, of ${arena} allocated`;
}
