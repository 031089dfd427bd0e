// Which charts there are, and what they are drawn from: the view's history, of hundreds of points.

import { el, svg, tell } from "./dom.js";
import { bytes, count, isNumber, loss, percent } from "./format.js";
import { Plot } from "./plot.js";

const MEDIAN_OF = 5;

const CHARTS = [
  {
    key: "loss",
    title: "Loss, bits per byte",
    lines: { training: "loss_bits_per_byte", validation: "validation_bits_per_byte" },
    y: (value) => (Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(0)),
    value: loss,
    canBeOverTokens: true,
  },
  {
    key: "speed",
    title: "Tokens/s",
    lines: { speed: speeds },
    now: (view) => view.tokens_per_s,
    y: count,
    value: count,
    from: 0,
    fills: true,
  },
  {
    key: "utilisation",
    title: "Utilisation",
    lines: { utilisation: "utilisation_frac" },
    y: percent,
    value: percent,
    from: 0,
    to: 1,
    fills: true,
  },
  {
    key: "sent",
    title: "Sent in all",
    lines: { sent: "sent_bytes" },
    now: (view) => view.history.at(-1)?.sent_bytes, // with what those sent who are gone
    y: (value) => bytes(value).replace(".0 ", " "),
    value: bytes,
    from: 0,
    fills: true,
  },
];

export class Charts {
  constructor(root) {
    this.over = "time";
    this.view = null;
    this.charts = CHARTS.map((chart) => this.make(chart));
    root.append(...this.charts.map(({ figure }) => figure));
  }

  make(chart) {
    const readings = Object.keys(chart.lines).map((name) => el("span", { class: "reading" }));
    const place = el("span", { class: "at muted" });
    const caption = el("figcaption", {}, el("h2", {}, chart.title), el("span", { class: "readings" }, place, ...readings));
    const root = svg("svg", { role: "img", class: "plot" });
    const empty = el("p", { class: "muted empty" }, "nothing yet");
    const figure = el("figure", { class: `card chart ${chart.key}`, "data-chart": chart.key }, caption, root, empty);
    if (chart.canBeOverTokens) caption.append(this.switch());
    const made = { ...chart, figure, root, empty, readings, place, isRead: false };
    made.plot = new Plot(root, {
      ...{ y: chart.y, x: count, from: chart.from, to: chart.to, fills: chart.fills },
      onRead: (reading) => {
        made.isRead = reading !== null;
        if (reading) this.tell(made, reading.at, (name) => reading.values.get(name));
        else this.tellNow(made);
      },
    });
    return made;
  }

  switch() {
    const group = el("span", { class: "switch", role: "group", "aria-label": "Loss over" });
    for (const over of ["time", "tokens"]) {
      const button = el("button", { type: "button", "aria-pressed": over === this.over, "data-over": over }, over);
      button.addEventListener("click", () => {
        this.over = over;
        for (const other of group.children) other.setAttribute("aria-pressed", other === button);
        this.show(this.view);
      });
      group.append(button);
    }
    return group;
  }

  show(view) {
    if (!view) return;
    this.view = view;
    for (const chart of this.charts) {
      const isTime = !(chart.canBeOverTokens && this.over === "tokens");
      const xs = view.history.map((point) => (isTime ? point.unix_s : point.tokens));
      const series = Object.entries(chart.lines).map(([name, of]) => {
        const ys = typeof of === "string" ? view.history.map((point) => point[of]) : of(view.history);
        return { name, points: xs.map((x, i) => [x, ys[i]]) };
      });
      chart.plot.show(series, { isTime });
      const isEmpty = !series.some((one) => one.points.some(([, y]) => isNumber(y)));
      chart.empty.hidden = !isEmpty;
      chart.root.classList.toggle("bare", isEmpty);
      if (!chart.isRead) this.tellNow(chart);
    }
  }

  tellNow(chart) {
    if (!this.view) return;
    const nowOf = (name) => (chart.now ? chart.now(this.view) : this.view[chart.lines[name]]);
    this.tell(chart, "", nowOf);
    const said = Object.keys(chart.lines).map((name) => `${name} ${chart.value(nowOf(name))}`);
    chart.root.setAttribute("aria-label", `${chart.title}: now ${said.join(", ")}`);
  }

  tell(chart, at, valueOf) {
    chart.place.textContent = at;
    const names = Object.keys(chart.lines);
    names.forEach((name, i) => {
      const words = names.length > 1 ? `${name} ` : "";
      tell(chart.readings[i], `chart_${name}`, valueOf(name), words + chart.value(valueOf(name)));
      chart.readings[i].className = `reading ${name}`;
    });
  }
}

/** Tokens/s between points; the median of some, for who comes brings its tokens along. */
function speeds(history) {
  const rates = history.slice(1).map((point, i) => {
    const took = point.unix_s - history[i].unix_s;
    const rate = (point.tokens - history[i].tokens) / took;
    return took > 0 && rate >= 0 ? rate : null;
  });
  const half = Math.floor(MEDIAN_OF / 2);
  return history.map((_, i) => {
    const near = rates.slice(Math.max(0, i - 1 - half), i + half).filter(isNumber).sort((a, b) => a - b);
    return near.length ? near[Math.floor(near.length / 2)] : null;
  });
}
