// Elements, numbers with units, and text that fits.

const SVG = "http://www.w3.org/2000/svg";

/** An element; names of a model only ever become text or attributes, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

function timeText(us) {
  if (us === null || us === undefined) return "unknown";
  if (Math.abs(us) < 9.995) return `${us.toFixed(2)} µs`;
  if (Math.abs(us) < 99.95) return `${us.toFixed(1)} µs`;
  if (Math.abs(us) < 999.5) return `${us.toFixed(0)} µs`;
  const ms = us / 1000;
  return `${ms.toFixed(ms < 9.995 ? 3 : 2)} ms`;
}

function bytesText(bytes) {
  if (bytes < 1e3) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function numberText(value) {
  return value === null || value === undefined ? "–" : value.toFixed(1);
}

function wholeText(value) {
  return value === null ? "–" : value.toFixed(0);
}

function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

function percentText(value) {
  return value === null ? "unknown" : `${value.toFixed(0)} %`;
}

/** Round numbers at which an axis of about `count` ticks between two values has its marks. */
function ticks(start, end, count) {
  const rough = (end - start) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const marks = [];
  for (let i = Math.ceil(start / step - 1e-9); i * step <= end * (1 + 1e-12); i++) marks.push(i * step);
  return { step, marks };
}

const ruler = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(text, size = 11) {
  const key = `${size} ${text}`;
  if (!widths.has(key)) {
    ruler.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    widths.set(key, ruler.measureText(text).width);
  }
  return widths.get(key);
}

/** The longest beginning of a text that fits a width, with an ellipsis if it is not all of it. */
function fitted(text, width, size = 11) {
  if (textWidth(text, size) <= width) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${text.slice(0, middle)}…`, size) <= width) low = middle;
    else high = middle - 1;
  }
  return low < 2 ? "" : `${text.slice(0, low)}…`;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
