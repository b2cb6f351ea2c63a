// What the colour of an op says. All fills are light enough for dark text in both themes. The
// palette is Paul Tol's "light" scheme, which people with colour blindness can tell apart.

const PALETTE = [
  "#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#bbcc33", "#99ddff", "#aaaa00",
];
const UNKNOWN = "#c9ced6";
const BAD_TO_GOOD = ["#ee8866", "#f7b98b", "#f4e3b2", "#b5d7e8", "#77aadd"];
const GOOD_TO_BAD = [...BAD_TO_GOOD].reverse();

/** A lighter tint, so that groups of one stage differ. */
function tint(colour, share) {
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const mixed = parts.map((part) => Math.round(part + (255 - part) * share));
  return `#${mixed.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

function stageColour(stage) {
  return PALETTE[stage % PALETTE.length];
}

function binned(value, limits, colours) {
  if (value === null || value === undefined) return UNKNOWN;
  return colours[limits.filter((limit) => value >= limit).length];
}

/** Kinds of kernel, those that take most time first: the last colour is for all others. */
function kernelRanks(plan) {
  const times = new Map();
  for (const op of plan.ops) times.set(kind(op), (times.get(kind(op)) ?? 0) + (shownTime(op) ?? 0));
  return [...times.keys()].sort((a, b) => times.get(b) - times.get(a));
}

/** What a kernel does: its symbol without the number and the hash that make it unique. */
function kind(op) {
  return op.kernel.replace(/\d*_[0-9a-f]{16}$/, "");
}

/** Time in the plan if it was measured, else the predicted one. */
function shownTime(op) {
  if (op.in_plan_us !== null) return op.in_plan_us;
  return op.predicted ? op.predicted[1] - op.predicted[0] : op.solo_us;
}

/** Time in the plan, in per cent of the time alone. */
function slowdown(op) {
  return op.in_plan_us === null || !op.solo_us ? null : (100 * op.in_plan_us) / op.solo_us;
}

const ROOFLINE_LIMITS = [20, 40, 60, 80];
const SLOWDOWN_LIMITS = [110, 130, 160, 200];

function bins(limits, words, colours) {
  const texts = limits.map((limit, i) => (i ? `${limits[i - 1]}–${limit} %` : `< ${limit} %`));
  texts.push(`≥ ${limits[limits.length - 1]} %`);
  return [[null, words], ...texts.map((text, i) => [colours[i], text]), [UNKNOWN, "unknown"]];
}

/** By name: colours of the ops of a plan and the legend for them, as pairs of colour and text. */
const COLOURS = {
  stage(plan) {
    const swatches = PALETTE.slice(0, Math.min(plan.stages, PALETTE.length));
    const legend = swatches.map((colour, stage) => {
      const more = plan.stages > stage + PALETTE.length ? `, ${stage + PALETTE.length}, …` : "";
      return [colour, `stage ${stage}${more}`];
    });
    legend.push([null, "lighter: further groups of a stage"]);
    return { of: (op) => tint(stageColour(op.stage), 0.3 * (op.group % 3)), legend };
  },
  kernel(plan) {
    const ranks = kernelRanks(plan);
    const last = PALETTE.length - 1;
    const colour = new Map(ranks.map((name, rank) => [name, rank < last ? PALETTE[rank] : UNKNOWN]));
    const legend = ranks.slice(0, last).map((name) => [colour.get(name), name]);
    if (ranks.length > last) legend.push([UNKNOWN, `${ranks.length - last} others`]);
    return { of: (op) => colour.get(kind(op)), legend };
  },
  "% of roofline"() {
    const of = (op) => binned(op.roofline_percent, ROOFLINE_LIMITS, BAD_TO_GOOD);
    return { of, legend: bins(ROOFLINE_LIMITS, "of the roofline, alone on the device:", BAD_TO_GOOD) };
  },
  "time in plan / alone"() {
    const of = (op) => binned(slowdown(op), SLOWDOWN_LIMITS, GOOD_TO_BAD);
    return { of, legend: bins(SLOWDOWN_LIMITS, "time in the plan, of that alone:", GOOD_TO_BAD) };
  },
};
