// The graph of ops, layer by layer from left to right. Long graphs are folded into bands below each
// other, as lines of a text are: what leaves a band on the right goes on at the left of the next.

const NODE_WIDTH = 164;
const NODE_HEIGHT = 38;
const LAYER_PITCH = 214;
const ROW_PITCH = 50;
const DESCRIPTION = 340;
const STUB = 30;
const BAND_MARGIN = 36;
// Below the first scale the text of a box is one large line, below the second there is none.
const NEAR = 0.62;
const FAR = 0.36;

class Graph {
  constructor(box, overview, page) {
    this.box = box;
    this.overview = overview;
    this.page = page;
    this.svg = draw("svg", { width: "100%", height: "100%", role: "presentation" });
    this.map = draw("svg", { width: "100%", height: "100%" });
    box.append(this.svg);
    overview.append(this.map);
    this.pending = 0;
    new ResizeObserver(() => this.redraw()).observe(box);
    this.listen();
  }

  show() {
    const { ops } = this.page.plan;
    this.fold = folding(ops, this.box.clientWidth / this.box.clientHeight);
    const { width, height } = this.fold;
    this.extent = { x: -STUB - 10, y: -10, width: width + 20, height: height + 20 };
    this.build();
    this.fit();
  }

  build() {
    const { page } = this;
    const { ops } = page.plan;
    this.pen = new Pen(this.fold);
    this.world = draw("g");
    this.highlights = draw("g");
    const edges = draw("g");
    const pen = this.pen;
    const lines = ops.map((op, index) =>
      pen.trunk(op) + page.readers[index].map((to) => pen.branch(op, ops[to], true)).join(""));
    for (const d of lines) if (d) edges.append(draw("path", { class: "edge", d }));
    this.nodes = ops.map((op, index) => this.node(op, index));
    this.world.append(edges, this.highlights, ...this.nodes);
    this.svg.replaceChildren(this.world);
    const { x, y, width, height } = this.extent;
    this.map.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    // In the overview an op is at least a few pixels, however large the graph.
    const least = { width: Math.max(NODE_WIDTH, width / 60), height: Math.max(NODE_HEIGHT, height / 40) };
    this.dots = ops.map((op) =>
      draw("rect", { x: pen.left(op), y: pen.middle(op) - least.height / 2, ...least }));
    this.window = draw("rect", { class: "window", "vector-effect": "non-scaling-stroke" });
    this.map.replaceChildren(...this.dots, this.window);
    this.recolour();
  }

  node(op, index) {
    const place = `translate(${this.pen.left(op)} ${this.pen.middle(op) - NODE_HEIGHT / 2})`;
    const name = op.what || op.name;
    const second = `${timeText(shownTime(op))} · stage ${op.stage}`;
    return draw("g", { class: "node", "data-op": index, transform: place },
      draw("rect", { width: NODE_WIDTH, height: NODE_HEIGHT, rx: 5, "data-op": index }),
      draw("text", { class: "on-op near strong", x: 8, y: 16 }, fitted(name, NODE_WIDTH - 26)),
      draw("text", { class: "on-op near", x: 8, y: 30 }, fitted(second, NODE_WIDTH - 14)),
      draw("text", { class: "on-op middle", x: 7, y: 26 }, fitted(name, NODE_WIDTH - 12, 20)));
  }

  recolour() {
    this.page.plan.ops.forEach((op, index) => {
      const colour = this.page.colour(op);
      this.nodes[index].firstChild.setAttribute("fill", colour);
      this.dots[index].setAttribute("fill", colour);
    });
  }

  /** Scale at which the whole graph fits. */
  whole() {
    const { width, height } = this.size();
    return Math.min(width / this.extent.width, height / this.extent.height, 1);
  }

  fit() {
    const { width, height } = this.size();
    const { x, y, width: w, height: h } = this.extent;
    this.scale = this.whole();
    this.offset = {
      x: width / 2 - (x + w / 2) * this.scale,
      y: height / 2 - (y + h / 2) * this.scale,
    };
    this.redraw();
  }

  size() {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      if (this.world) this.paint();
    });
  }

  paint() {
    const { width, height } = this.size();
    const { x, y } = this.offset;
    this.world.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${this.scale})`);
    this.svg.classList.toggle("far", this.scale < FAR);
    this.svg.classList.toggle("not-near", this.scale < NEAR);
    this.overview.hidden = this.scale <= this.whole() * 1.05;
    fill(this.window, {
      x: -x / this.scale,
      y: -y / this.scale,
      width: width / this.scale,
      height: height / this.scale,
    }, []);
  }

  /** Mark the chosen op, its neighbours and the lines between them. */
  mark() {
    const { chosen, plan, readers } = this.page;
    const near = new Set(chosen === null ? [] : this.page.near(chosen));
    this.nodes.forEach((node, index) => {
      node.classList.toggle("chosen", index === chosen);
      node.classList.toggle("dimmed", chosen !== null && index !== chosen && !near.has(index));
    });
    const parts = [];
    if (chosen !== null) {
      const op = plan.ops[chosen];
      for (const source of op.sources) {
        parts.push(draw("path", { class: "chosen-edge reads", d: this.pen.branch(plan.ops[source], op, false) }));
      }
      for (const reader of readers[chosen]) {
        parts.push(draw("path", { class: "chosen-edge readers", d: this.pen.branch(op, plan.ops[reader], false) }));
      }
    }
    this.highlights.replaceChildren(...parts);
  }

  /** Bring an op into view, large enough to be read. */
  reveal(index) {
    const op = this.page.plan.ops[index];
    const { width, height } = this.size();
    const centre = { x: this.pen.left(op) + NODE_WIDTH / 2, y: this.pen.middle(op) };
    const at = { x: centre.x * this.scale + this.offset.x, y: centre.y * this.scale + this.offset.y };
    // On the right stands the description of the op.
    const inside = at.x > 60 && at.x < width - DESCRIPTION && at.y > 20 && at.y < height - 20;
    if (inside && this.scale >= NEAR) return;
    this.scale = Math.max(this.scale, 0.8);
    const middle = (width - Math.min(DESCRIPTION, width / 2)) / 2;
    this.offset = { x: middle - centre.x * this.scale, y: height / 2 - centre.y * this.scale };
    this.redraw();
  }

  zoom(factor, x = this.size().width / 2, y = this.size().height / 2) {
    const scale = clamp(this.scale * factor, this.whole(), 3);
    const ratio = scale / this.scale;
    this.offset = { x: x - (x - this.offset.x) * ratio, y: y - (y - this.offset.y) * ratio };
    this.scale = scale;
    this.redraw();
  }

  pan(dx, dy) {
    this.offset = { x: this.offset.x + dx, y: this.offset.y + dy };
    this.redraw();
  }

  listen() {
    const { box, page } = this;
    box.addEventListener("wheel", (event) => {
      if (event.deltaY > 0 && this.scale <= this.whole() * 1.001) return;
      event.preventDefault();
      const at = box.getBoundingClientRect();
      const amount = wheelPixels(event);
      if (event.shiftKey) this.pan(-amount, 0);
      else this.zoom(Math.exp(-amount / 400), event.clientX - at.left, event.clientY - at.top);
    }, { passive: false });
    dragging(box, {
      move: (dx, dy) => this.pan(dx, dy),
      click: (event) => page.choose(opOf(event)),
    });
    box.addEventListener("pointermove", (event) => page.hover(opOf(event), event.clientX, event.clientY));
    box.addEventListener("pointerleave", () => page.hover(null));
    box.addEventListener("keydown", (event) => this.key(event));
    const jump = (event) => {
      const at = this.overview.getBoundingClientRect();
      const { width, height } = this.size();
      // The overview shows the extent as large as it can, in the middle.
      const small = Math.min(at.width / this.extent.width, at.height / this.extent.height);
      const x = (event.clientX - at.left - at.width / 2) / small + this.extent.x + this.extent.width / 2;
      const y = (event.clientY - at.top - at.height / 2) / small + this.extent.y + this.extent.height / 2;
      this.offset = { x: width / 2 - x * this.scale, y: height / 2 - y * this.scale };
      this.redraw();
    };
    dragging(this.overview, { start: jump, move: (dx, dy, event) => jump(event) });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => this.pan(80, 0),
      ArrowRight: () => this.pan(-80, 0),
      ArrowUp: () => this.pan(0, 60),
      ArrowDown: () => this.pan(0, -60),
      "+": () => this.zoom(1.3),
      "=": () => this.zoom(1.3),
      "-": () => this.zoom(1 / 1.3),
      0: () => this.fit(),
      Escape: () => this.page.choose(null),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/** Into how many bands to fold layers, so that all fit a box of an aspect as large as can be. */
function folding(ops, aspect) {
  const layers = Math.max(...ops.map((op) => op.layer), 0) + 1;
  const bounds = (perBand) => {
    const lows = Array(Math.ceil(layers / perBand)).fill(Infinity);
    const highs = lows.map(() => -Infinity);
    const include = (layer, y) => {
      const band = Math.floor(layer / perBand);
      lows[band] = Math.min(lows[band], y * ROW_PITCH);
      highs[band] = Math.max(highs[band], y * ROW_PITCH);
    };
    for (const op of ops) {
      include(op.layer, op.y);
      op.lane.forEach((y, step) => include(op.layer + 1 + step, y));
    }
    return { lows, highs };
  };
  let best = null;
  for (let bands = 1; bands <= Math.min(layers, 40); bands++) {
    const perBand = Math.ceil(layers / bands);
    const { lows, highs } = bounds(perBand);
    // What has to be added to the positions of a band, so that it stands below the one before.
    const shifts = [];
    let height = 0;
    lows.forEach((low, band) => {
      shifts.push(height - low + BAND_MARGIN);
      height += highs[band] - low + 2 * BAND_MARGIN;
    });
    const width = (perBand - 1) * LAYER_PITCH + NODE_WIDTH + 2 * STUB;
    const scale = Math.min(aspect / width, 1 / height);
    if (!best || scale > best.scale) best = { perBand, shifts, width, height, scale };
  }
  return best;
}

/** Lines and places of ops in a folded graph. */
class Pen {
  constructor(fold) {
    this.fold = fold;
  }

  x(layer) {
    return (layer % this.fold.perBand) * LAYER_PITCH;
  }

  y(layer, y) {
    return y * ROW_PITCH + this.fold.shifts[Math.floor(layer / this.fold.perBand)];
  }

  left(op) {
    return this.x(op.layer);
  }

  middle(op) {
    return this.y(op.layer, op.y);
  }

  /** From the right side of one layer to the left side of a later one. */
  step(layer, y, next, to) {
    const { perBand } = this.fold;
    const start = { x: this.x(layer) + NODE_WIDTH, y: this.y(layer, y) };
    const end = { x: this.x(next), y: this.y(next, to) };
    if (Math.floor(layer / perBand) === Math.floor(next / perBand)) {
      return curve(start.x, start.y, end.x, end.y);
    }
    const entry = { x: end.x - STUB, y: this.y(next, y) };
    return `H${start.x + STUB}M${entry.x},${entry.y}${curve(entry.x, entry.y, end.x, end.y)}`;
  }

  start(layer, y) {
    return `M${this.x(layer) + NODE_WIDTH},${this.y(layer, y)}`;
  }

  /** Line of an op's result through some layers of its lane, from the op's right side. */
  lane(op, steps) {
    let d = this.start(op.layer, op.y);
    let y = op.y;
    for (let step = 0; step < steps; step++) {
      const layer = op.layer + step;
      d += `${this.step(layer, y, layer + 1, op.lane[step])}h${NODE_WIDTH}`;
      y = op.lane[step];
    }
    return d;
  }

  trunk(op) {
    return op.lane.length ? this.lane(op, op.lane.length) : "";
  }

  /** Line from an op to a reader: all of it, or what is not on the trunk. */
  branch(op, reader, offTrunk) {
    const steps = Math.min(reader.layer - op.layer - 1, op.lane.length);
    const layer = op.layer + steps;
    const y = steps ? op.lane[steps - 1] : op.y;
    const begin = offTrunk ? this.start(layer, y) : this.lane(op, steps);
    return begin + this.step(layer, y, reader.layer, reader.y);
  }
}

function curve(x1, y1, x2, y2) {
  const bend = (x2 - x1) / 2;
  return `C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
}
