// The tables: operators, and the time of each kind of kernel.

// Heading, value, and for numbers their text and whether the largest come first.
const COLUMNS = [
  ["#", (op, index) => index, (value) => value],
  ["op", (op) => op.name],
  ["what", (op) => op.what],
  ["stage", (op) => op.stage, (value) => value],
  ["group", (op) => op.group, (value) => value],
  ["stream", (op) => (op.threads > 1 ? -1 : op.stream), (value) => (value < 0 ? "all" : value)],
  ["in plan, µs", (op) => op.in_plan_us, numberText, true],
  ["predicted, µs", (op) => (op.predicted ? op.predicted[1] - op.predicted[0] : null), numberText, true],
  ["alone, µs", (op) => op.solo_us, numberText, true],
  ["in plan / alone, %", slowdown, wholeText, true],
  ["GFLOP/s", (op) => op.gflops, numberText, true],
  ["GB/s", (op) => op.gb_per_s, numberText, true],
  ["% of roofline", (op) => op.roofline_percent, wholeText, true],
  ["kernel", (op) => op.kernel],
  ["reads", (op) => op.reads],
  ["writes", (op) => op.writes],
];

class OperatorTable {
  constructor(table, page) {
    this.page = page;
    this.body = make("tbody");
    this.heads = COLUMNS.map(([name, , format], column) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => this.sortBy(column));
      return make("th", { scope: "col", class: format ? "number" : "" }, button);
    });
    table.append(make("thead", {}, make("tr", {}, ...this.heads)), this.body);
    this.sorted = { column: 0, descending: false };
    byId("filter").addEventListener("input", () => this.arrange());
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) page.choose(Number(row.dataset.op));
    });
  }

  show() {
    const { ops } = this.page.plan;
    this.rows = ops.map((op, index) => {
      const row = make("tr", { "data-op": index });
      for (const [, value, format] of COLUMNS) {
        const shown = format ? format(value(op, index)) : value(op, index);
        const cell = make("td", { class: format ? "number" : "wide" }, `${shown}`);
        if (!format) cell.title = shown;
        row.append(cell);
      }
      return row;
    });
    this.arrange();
  }

  sortBy(column) {
    const again = this.sorted.column === column;
    const descending = again ? !this.sorted.descending : Boolean(COLUMNS[column][3]);
    this.sorted = { column, descending };
    this.arrange();
  }

  arrange() {
    const { ops } = this.page.plan;
    const { column, descending } = this.sorted;
    const wanted = byId("filter").value.trim().toLowerCase();
    const value = COLUMNS[column][1];
    const keys = ops.map((op, index) => value(op, index));
    const order = ops.map((_, index) => index).filter((index) => {
      const op = ops[index];
      return !wanted || `${op.name}\n${op.what}\n${op.kernel}`.toLowerCase().includes(wanted);
    });
    order.sort((a, b) => compare(keys[a], keys[b], descending) || a - b);
    this.body.replaceChildren(...order.map((index) => this.rows[index]));
    this.heads.forEach((head, index) => {
      const direction = descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", index === column ? direction : "none");
      const arrow = index === column ? (descending ? "\u00a0▼" : "\u00a0▲") : "";
      head.firstChild.textContent = COLUMNS[index][0] + arrow;
    });
    byId("shown").textContent = `${order.length} of ${ops.length} operators`;
  }

  mark() {
    const { chosen } = this.page;
    this.rows.forEach((row, index) => row.classList.toggle("chosen", index === chosen));
    const row = this.rows[chosen];
    // Not scrollIntoView: that would move the page, too.
    const box = this.body.closest(".scroll");
    if (row) box.scrollTop = row.offsetTop - box.clientHeight / 2;
  }
}

/** Unknown values come last, whatever the direction. */
function compare(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return descending ? -order : order;
}

function showKernels(table, plan) {
  const kinds = new Map();
  for (const op of plan.ops) {
    const entry = kinds.get(kind(op)) ?? { calls: 0, time: 0 };
    entry.calls += 1;
    entry.time += shownTime(op) ?? 0;
    kinds.set(kind(op), entry);
  }
  const total = [...kinds.values()].reduce((sum, entry) => sum + entry.time, 0) || 1;
  const heads = ["kernel", "calls", "time", "share", ""].map((name, index) =>
    make("th", { scope: "col", class: index && index < 4 ? "number" : "" }, make("span", {}, name)));
  const rows = kernelRanks(plan).map((name) => {
    const { calls, time } = kinds.get(name);
    const bar = make("span", { class: "share" });
    bar.style.width = `${(100 * time) / total}%`;
    const last = make("td", {}, bar);
    last.style.width = "40%";
    return make("tr", {},
      make("td", { class: "wide", title: name }, name),
      make("td", { class: "number" }, `${calls}`),
      make("td", { class: "number" }, timeText(time)),
      make("td", { class: "number" }, `${((100 * time) / total).toFixed(1)} %`),
      last);
  });
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}
