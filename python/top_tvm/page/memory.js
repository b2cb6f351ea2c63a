// The bytes of the arena in use over time, drawn under the timeline on the same axis.

const MEMORY_HEIGHT = 84;
const WEIGHTS_HEIGHT = 16;

/** Bytes in use at a time. */
function bytesAt(steps, us) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle][0] <= us) low = middle + 1;
    else high = middle;
  }
  return low ? steps[low - 1][1] : 0;
}

/** Draw into a group whose origin is the top left corner; `x` turns microseconds into pixels. */
function drawMemory(group, plan, steps, view, x, width) {
  const top = Math.max(plan.arena_bytes, ...steps.map((step) => step[1]), 1) * 1.12;
  const y = (bytes) => MEMORY_HEIGHT * (1 - bytes / top);
  const parts = [];
  for (const mark of ticks(0, top, 3).marks) {
    parts.push(draw("line", { class: "grid", x1: 0, x2: width, y1: y(mark), y2: y(mark) }));
  }
  let path = `M0,${y(0)}V${y(bytesAt(steps, view.start)).toFixed(1)}`;
  for (const [us, bytes] of steps) {
    if (us > view.start && us < view.end) path += `H${x(us).toFixed(1)}V${y(bytes).toFixed(1)}`;
  }
  parts.push(draw("path", { class: "memory", d: `${path}H${width}V${y(0)}Z` }));
  const limit = y(plan.arena_bytes);
  parts.push(draw("line", { class: "limit", x1: 0, x2: width, y1: limit, y2: limit }));
  const weights = { class: "weights", y: MEMORY_HEIGHT, width, height: WEIGHTS_HEIGHT };
  parts.push(draw("rect", weights));
  const label = `weights: ${bytesText(plan.weights_bytes)} below that, not to scale`;
  parts.push(draw("text", { class: "quiet", x: 6, y: MEMORY_HEIGHT + 12 }, fitted(label, width - 12)));
  group.replaceChildren(...parts);
}

/** Marks of the axis, which stand still when the timeline moves. */
function drawMemoryAxis(group, plan, steps, right) {
  const top = Math.max(plan.arena_bytes, ...steps.map((step) => step[1]), 1) * 1.12;
  const texts = ticks(0, top, 3).marks.map((mark) => {
    const y = MEMORY_HEIGHT * (1 - mark / top) + 4;
    return draw("text", { class: "quiet", x: right, y, "text-anchor": "end" }, bytesText(mark));
  });
  group.replaceChildren(...texts);
}
