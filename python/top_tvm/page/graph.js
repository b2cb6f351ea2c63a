// The graph of ops, layer by layer from left to right, with an overview below.

const NODE_WIDTH = 164;
const NODE_HEIGHT = 38;
const LAYER_PITCH = 214;
const ROW_PITCH = 50;
const FAR = 0.5;
const LEAST_HEIGHT = 260;
const MOST_HEIGHT = 460;

class Graph {
  constructor(box, overview, page) {
    this.box = box;
    this.overview = overview;
    this.page = page;
    this.svg = draw("svg", { width: "100%", height: "100%", role: "presentation" });
    this.map = draw("svg", { width: "100%", height: "100%", preserveAspectRatio: "none" });
    box.append(this.svg);
    overview.append(this.map);
    this.pending = 0;
    new ResizeObserver(() => this.redraw()).observe(box);
    this.listen();
  }

  show() {
    const { ops } = this.page.plan;
    const ys = ops.flatMap((op) => [op.y, ...op.lane]).map((y) => y * ROW_PITCH);
    const low = Math.min(...ys, 0) - ROW_PITCH;
    this.extent = {
      x: -30,
      y: low,
      width: (Math.max(...ops.map((op) => op.layer), 0) + 1) * LAYER_PITCH + 10,
      height: Math.max(...ys, 0) + ROW_PITCH - low,
    };
    this.build();
    this.start();
  }

  build() {
    const { page } = this;
    const { ops } = page.plan;
    this.world = draw("g");
    this.highlights = draw("g");
    const edges = draw("g");
    const lines = ops.map((op, index) => trunk(op) + page.readers[index].map((reader) =>
      branch(op, ops[reader], true)).join(""));
    for (const d of lines) if (d) edges.append(draw("path", { class: "edge", d }));
    this.nodes = ops.map((op, index) => this.node(op, index));
    this.world.append(edges, this.highlights, ...this.nodes);
    this.svg.replaceChildren(this.world);
    const { x, y, width, height } = this.extent;
    this.map.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    // In the overview an op is at least a few pixels, however large the graph.
    const least = { width: Math.max(NODE_WIDTH, width / 400), height: Math.max(NODE_HEIGHT, height / 16) };
    this.dots = ops.map((op) => draw("rect", { x: left(op), y: middle(op) - least.height / 2, ...least }));
    this.window = draw("rect", { class: "window", "vector-effect": "non-scaling-stroke" });
    this.map.replaceChildren(...this.dots, this.window);
    this.recolour();
  }

  node(op, index) {
    const place = `translate(${left(op)} ${middle(op) - NODE_HEIGHT / 2})`;
    const second = `${timeText(shownTime(op))} · stage ${op.stage} · ${op.threads > 1 ? "all" : `stream ${op.stream}`}`;
    return draw("g", { class: "node", "data-op": index, transform: place },
      draw("rect", { width: NODE_WIDTH, height: NODE_HEIGHT, rx: 5, "data-op": index }),
      draw("text", { class: "on-op strong", x: 8, y: 16 }, fitted(op.what || op.name, NODE_WIDTH - 22)),
      draw("text", { class: "on-op", x: 8, y: 30 }, fitted(second, NODE_WIDTH - 14)));
  }

  recolour() {
    this.page.plan.ops.forEach((op, index) => {
      const colour = this.page.colour(op);
      this.nodes[index].firstChild.setAttribute("fill", colour);
      this.dots[index].setAttribute("fill", colour);
    });
  }

  /** At first: as much of the left end as can be read, in a box no higher than that needs. */
  start() {
    const width = this.box.clientWidth;
    const readable = Math.max(width / this.extent.width, MOST_HEIGHT / this.extent.height);
    const scale = clamp(readable, 0.85, 1);
    this.box.style.height = `${clamp(this.extent.height * scale, LEAST_HEIGHT, MOST_HEIGHT)}px`;
    const height = this.box.clientHeight;
    this.scale = scale;
    const spare = width - this.extent.width * scale;
    this.offset = {
      x: Math.max(spare / 2, 0) - this.extent.x * scale,
      y: height / 2 - (this.extent.y + this.extent.height / 2) * scale,
    };
    this.redraw();
  }

  fit() {
    const { width, height } = this.size();
    const { x, y, width: w, height: h } = this.extent;
    this.scale = Math.min(width / w, height / h, 1);
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
        parts.push(draw("path", { class: "chosen-edge reads", d: branch(plan.ops[source], op, false) }));
      }
      for (const reader of readers[chosen]) {
        parts.push(draw("path", { class: "chosen-edge readers", d: branch(op, plan.ops[reader], false) }));
      }
    }
    this.highlights.replaceChildren(...parts);
  }

  /** Bring an op into view, large enough to be read. */
  reveal(index) {
    const op = this.page.plan.ops[index];
    const { width, height } = this.size();
    const centre = { x: left(op) + NODE_WIDTH / 2, y: middle(op) };
    const at = { x: centre.x * this.scale + this.offset.x, y: centre.y * this.scale + this.offset.y };
    const inside = at.x > 60 && at.x < width - 60 && at.y > 20 && at.y < height - 20;
    if (inside && this.scale >= FAR) return;
    this.scale = Math.max(this.scale, 0.8);
    this.offset = { x: width / 2 - centre.x * this.scale, y: height / 2 - centre.y * this.scale };
    this.redraw();
  }

  zoom(factor, x = this.size().width / 2, y = this.size().height / 2) {
    const { width, height } = this.size();
    const least = Math.min(width / this.extent.width, height / this.extent.height, 0.5);
    const scale = clamp(this.scale * factor, least, 3);
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
      const whole = this.scale * this.extent.width <= this.size().width * 1.001;
      if (event.deltaY > 0 && whole) return;
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
      const share = { x: (event.clientX - at.left) / at.width, y: (event.clientY - at.top) / at.height };
      this.offset = {
        x: width / 2 - (this.extent.x + share.x * this.extent.width) * this.scale,
        y: height / 2 - (this.extent.y + share.y * this.extent.height) * this.scale,
      };
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

function left(op) {
  return op.layer * LAYER_PITCH;
}

function middle(op) {
  return op.y * ROW_PITCH;
}

function curve(x1, y1, x2, y2) {
  const bend = (x2 - x1) / 2;
  return `C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
}

/** Line of an op's result through `steps` layers of its lane, from the op's right side. */
function lane(op, steps) {
  let x = left(op) + NODE_WIDTH;
  let y = middle(op);
  let d = `M${x},${y}`;
  for (let step = 0; step < steps; step++) {
    const next = left(op) + (step + 1) * LAYER_PITCH;
    const to = op.lane[step] * ROW_PITCH;
    d += `${curve(x, y, next, to)}H${next + NODE_WIDTH}`;
    x = next + NODE_WIDTH;
    y = to;
  }
  return { d, x, y };
}

function trunk(op) {
  return op.lane.length ? lane(op, op.lane.length).d : "";
}

/** Line from an op to a reader: all of it, or what is not on the trunk. */
function branch(op, reader, offTrunk) {
  const steps = Math.min(reader.layer - op.layer - 1, op.lane.length);
  const { d, x, y } = lane(op, steps);
  return `${offTrunk ? `M${x},${y}` : d}${curve(x, y, left(reader), middle(reader))}`;
}
