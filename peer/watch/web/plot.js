// One chart: lines over time or over tokens, with axes, and a reading where somebody points.

import { each, set, svg } from "./dom.js";
import { clock, isNumber } from "./format.js";

const GUTTER = { right: 12, top: 10, bottom: 22 };
const LETTER_PX = 6.6; // of the axes, at most on average
const LEAST_LEFT_PX = 34;
const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800];

export class Plot {
  /** `y` and `x` format numbers; `from` and `to` are the ends of the y axis, where they are fixed. */
  constructor(root, { y, x, from, to, fills, onRead }) {
    Object.assign(this, { root, y, x, from, to, fills, onRead, series: [], isTime: true });
    this.grid = svg("g", { class: "grid" });
    this.areas = svg("g", { class: "areas" });
    this.lines = svg("g", { class: "lines" });
    this.dots = svg("g", { class: "dots" });
    this.rule = svg("line", { class: "rule", visibility: "hidden" });
    root.append(this.grid, this.areas, this.rule, this.lines, this.dots);
    new ResizeObserver(() => this.draw()).observe(root);
    root.addEventListener("pointermove", (event) => this.read(event));
    root.addEventListener("pointerdown", (event) => this.read(event));
    root.addEventListener("pointerleave", () => this.read(null));
  }

  /** `series`: name, and points as [x, y], in the order of x; `isTime`: x is seconds since 1970. */
  show(series, { isTime = true, x = this.x } = {}) {
    Object.assign(this, { series, isTime, x });
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || !height) return;
    set(this.root, { viewBox: `0 0 ${width} ${height}` });
    const points = this.series.flatMap((each) => each.points).filter(([x, y]) => isNumber(x) && isNumber(y));
    const [xs, ys] = [extent(points.map((p) => p[0])), extent(points.map((p) => p[1]))];
    if (ys && this.from === undefined) {
      const pad = 0.08 * (ys[1] - ys[0]) || 0.05 * Math.abs(ys[1]) || 1;
      [ys[0], ys[1]] = [ys[0] - pad, ys[1] + pad];
    } else if (ys) {
      [ys[0], ys[1]] = [this.from, this.to ?? (ys[1] * 1.08 || 1)];
    }
    if (xs && xs[0] === xs[1]) [xs[0], xs[1]] = [xs[0] - 1, xs[1] + 1];
    const rows = ys ? ticks(...ys, Math.max(2, Math.round(height / 55))) : [];
    this.left = Math.max(LEAST_LEFT_PX, 12 + LETTER_PX * Math.max(0, ...rows.map((value) => this.y(value).length)));
    this.scale = xs && {
      x: (value) => this.left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - this.left - GUTTER.right),
      y: (value) => height - GUTTER.bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (height - GUTTER.top - GUTTER.bottom),
    };
    this.drawGrid(xs, rows, width, height);
    this.drawLines(height);
  }

  drawGrid(xs, rows, width, height) {
    const marks = [];
    if (this.scale) {
      for (const value of rows) marks.push({ key: `y${value}`, y: this.scale.y(value), text: this.y(value) });
      const columns = Math.max(2, Math.round(width / 120));
      const labels = new Set();
      const stops = this.isTime ? timeTicks(...xs, columns) : ticks(...xs, columns);
      const hasSeconds = stops.some((value) => value % 60);
      for (const value of stops) {
        const text = this.isTime ? clock(value, hasSeconds) : this.x(value);
        const x = this.scale.x(value);
        if (x < this.left + 16 || x > width - 22 || labels.has(text)) continue;
        labels.add(text);
        marks.push({ key: `x${value}`, x, text });
      }
    }
    each(this.grid, marks, (mark) => mark.key, () => svg("g", {}, svg("line", {}), svg("text", {})), (group, mark) => {
      const [line, text] = group.children;
      if (mark.y !== undefined) {
        set(line, { x1: this.left, x2: width - GUTTER.right, y1: mark.y, y2: mark.y });
        set(text, { x: this.left - 8, y: mark.y + 4, "text-anchor": "end" });
      } else {
        set(line, { x1: mark.x, x2: mark.x, y1: height - GUTTER.bottom, y2: height - GUTTER.bottom + 4 });
        set(text, { x: mark.x, y: height - 5, "text-anchor": "middle" });
      }
      text.textContent = mark.text;
    });
  }

  drawLines(height) {
    const drawn = this.scale ? this.series : [];
    const shape = (one) => one.points.filter(([x, y]) => isNumber(x) && isNumber(y)).map(([x, y]) => `${this.scale.x(x).toFixed(1)} ${this.scale.y(y).toFixed(1)}`);
    const make = () => svg("path", {});
    each(this.lines, drawn, (one) => one.name, make, (path, one) => {
      set(path, { class: one.name, d: shape(one).length ? `M${shape(one).join("L")}` : "M0 0" });
    });
    each(this.areas, this.fills ? drawn : [], (one) => one.name, make, (path, one) => {
      const [points, floor] = [shape(one), height - GUTTER.bottom];
      const [first, last] = [points[0]?.split(" ")[0], points.at(-1)?.split(" ")[0]];
      set(path, { class: one.name, d: points.length > 1 ? `M${first} ${floor}L${points.join("L")}L${last} ${floor}Z` : "M0 0" });
    });
    this.mark(drawn.map((one) => ({ name: one.name, point: one.points.findLast(([, y]) => isNumber(y)) })));
  }

  /** Puts a dot on one point of each line. */
  mark(points) {
    each(this.dots, points.filter(({ point }) => point), (one) => one.name, () => svg("circle", { r: 3 }), (dot, { name, point }) => {
      set(dot, { class: name, cx: this.scale.x(point[0]), cy: this.scale.y(point[1]) });
    });
  }

  /** Tells what the lines are where the pointer is; without one, of nothing any more. */
  read(event) {
    if (!this.scale || !event) {
      set(this.rule, { visibility: "hidden" });
      this.onRead(null);
      if (this.scale) this.drawLines(this.root.clientHeight);
      return;
    }
    const x = event.clientX - this.root.getBoundingClientRect().left;
    const nearest = this.series.map((one) => {
      const points = one.points.filter(([, y]) => isNumber(y));
      const point = points.reduce((best, p) => (!best || Math.abs(this.scale.x(p[0]) - x) < Math.abs(this.scale.x(best[0]) - x) ? p : best), null);
      return { name: one.name, point };
    });
    const first = nearest.find(({ point }) => point);
    if (!first) return;
    const at = this.scale.x(first.point[0]);
    set(this.rule, { visibility: "visible", x1: at, x2: at, y1: GUTTER.top, y2: this.root.clientHeight - GUTTER.bottom });
    this.mark(nearest);
    this.onRead({ at: this.isTime ? clock(first.point[0]) : this.x(first.point[0]), values: new Map(nearest.map(({ name, point }) => [name, point?.[1]])) });
  }
}

function extent(values) {
  if (!values.length) return null;
  return [Math.min(...values), Math.max(...values)];
}

/** Round numbers between two others, about so many. */
function ticks(from, to, number) {
  const rough = (to - from) / number;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((times) => times * power >= rough * 0.999);
  return stepsOf(from, to, step);
}

function timeTicks(from, to, number) {
  const step = TIME_STEPS_S.find((seconds) => seconds >= (to - from) / number) ?? TIME_STEPS_S.at(-1);
  const offset = 60 * new Date(1000 * from).getTimezoneOffset(); // whole hours where the reader is
  return stepsOf(from - offset, to - offset, step).map((value) => value + offset);
}

function stepsOf(from, to, step) {
  const found = [];
  const first = Math.ceil(from / step);
  for (let i = 0; (first + i) * step <= to && i < 50; i += 1) found.push(Number(((first + i) * step).toPrecision(12)));
  return found;
}
