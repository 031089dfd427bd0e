// The swarm as a picture: peers in a ring, sector by sector. Further in is further behind.

import { each, set, svg } from "./dom.js";
import { condition, isNumber, plural, short, whole } from "./format.js";
import { Wires } from "./wires.js";

const NEAR_PX = 26;
const LABEL_PX = 46; // six letters
const BEHIND_PX = 16; // how far behind, after them
const LABEL_GAP_PX = 13;
const NAME_GAP_PX = 10; // between a peer and its domain's name, further in
const MAX_NAME = 16; // letters of a domain's name; all of it is in the table
const SMALL_PX = 110; // a smaller ring needs the room of the labels more than them

export class Ring {
  /** `onPoint(peerId or null)` while something points at a peer, `onChoose` when one is chosen. */
  constructor(root, { onPoint, onChoose }) {
    this.root = root;
    this.onChoose = onChoose;
    this.onPoint = onPoint;
    this.view = null;
    this.pinned = null;
    this.spots = new Map(); // where each peer is
    this.sectors = svg("g", { class: "sectors", "aria-hidden": "true" });
    this.names = svg("g", { class: "names", "aria-hidden": "true" });
    this.middle = svg("text", { class: "middle", "aria-hidden": "true" });
    const wires = svg("g", { class: "wires", "aria-hidden": "true" });
    this.wires = new Wires(wires);
    this.peers = svg("g", {});
    root.append(this.sectors, wires, this.names, this.middle, this.peers);
    new ResizeObserver(() => this.draw()).observe(root);
    root.addEventListener("pointermove", (event) => this.point(this.near(event)));
    root.addEventListener("pointerleave", () => this.point(null));
    root.addEventListener("click", (event) => this.onChoose(this.near(event)));
    root.addEventListener("keydown", (event) => this.onKey(event));
    root.addEventListener("focusin", (event) => this.point(event.target.dataset?.peer ?? null));
    root.addEventListener("focusout", () => this.point(null));
  }

  show(view, nowMs) {
    this.view = view;
    this.wires.follow(view, nowMs);
    this.draw();
  }

  choose(peerId) {
    this.pinned = peerId;
    this.draw();
  }

  draw() {
    const size = this.root.clientWidth;
    if (!this.view || !size) return;
    set(this.root, { viewBox: `${-size / 2} ${-size / 2} ${size} ${size}` });
    this.place(size);
    this.drawPeers();
    this.wires.draw(this.spots);
    this.root.classList.toggle("dense", this.labels !== "upright");
  }

  /** Gives each peer its place; a sector for each domain, and one for bootstrap nodes. */
  place(size) {
    const names = [...new Set([...this.view.domains.map((each) => each.domain), ""])];
    const sectorOf = (peer) => (peer.role === "bootstrap" ? "nodes" : `domain ${peer.domain}`);
    const rank = (peer) => (peer.role === "bootstrap" ? Infinity : names.indexOf(peer.domain) + 1 || names.length + 1);
    const order = [...this.view.peers].sort(
      (a, b) => rank(a) - rank(b) || compare(sectorOf(a), sectorOf(b)) || compare(a.peer_id, b.peer_id),
    );
    const sectors = new Map();
    for (const peer of order) {
      const key = sectorOf(peer);
      if (!sectors.has(key)) sectors.set(key, []);
      sectors.get(key).push(peer);
    }
    const isSplit = sectors.size > 1;
    const gap = isSplit ? Math.min(0.8, order.length / 16) : 0; // between sectors, in peers' places
    const slots = order.length + gap * sectors.size;
    const turn = (2 * Math.PI) / Math.max(slots, 1);
    this.chooseSizes(size, turn);
    const radius = this.radius;
    this.order = order.map((peer) => peer.peer_id);
    this.spots = new Map();
    const arcs = [];
    let slot = gap / 2;
    for (const [key, peers] of sectors) {
      const from = slot;
      for (const peer of peers) {
        const angle = (slot + 0.5) * turn - Math.PI / 2;
        const behind = condition(peer).lags ? Math.min(peer.behind_rounds, 6) * 0.035 : 0;
        this.spots.set(peer.peer_id, { peer, angle, ...at(angle, radius * (1 - behind)) });
        slot += 1;
      }
      arcs.push({ key, peers, from: from * turn - Math.PI / 2, to: slot * turn - Math.PI / 2, isSplit });
      slot += gap;
    }
    this.drawSectors(arcs);
  }

  /** Labels stand upright where there is room, along the radius where there is less, or not at all. */
  chooseSizes(size, turn) {
    const most = Math.min(17, 0.034 * size);
    const room = most + LABEL_GAP_PX + LABEL_PX;
    const radius = size / 2 - room; // with labels
    const pitch = radius * turn;
    const hasLaggards = this.view.peers.some((peer) => condition(peer).lags);
    this.labels = pitch >= 50 ? "upright" : pitch >= 13 && radius >= SMALL_PX ? "radial" : "none";
    const margin = { upright: room, radial: room + (hasLaggards ? BEHIND_PX : 0), none: 24 }[this.labels];
    this.radius = size / 2 - margin;
    this.largest = Math.max(3.5, Math.min(most, 0.36 * this.radius * turn));
  }

  drawSectors(arcs) {
    each(
      this.sectors,
      arcs,
      (arc) => arc.key,
      () => svg("path", {}),
      (path, arc) => {
        const [a, b] = [at(arc.from, this.radius), at(arc.to, this.radius)];
        const isLarge = arc.to - arc.from > Math.PI ? 1 : 0;
        const d = arc.isSplit
          ? `M${a.x} ${a.y}A${this.radius} ${this.radius} 0 ${isLarge} 1 ${b.x} ${b.y}`
          : `M0 ${-this.radius}a${this.radius} ${this.radius} 0 1 1 -0.01 0`;
        set(path, { d });
      },
    );
    const named = arcs.filter((arc) => arc.isSplit && arc.key !== "nodes");
    each(this.names, named, (arc) => arc.key, () => svg("text", {}), (text, arc) => {
      const middle = (arc.from + arc.to) / 2;
      const inside = at(middle, this.radius - this.largest - NAME_GAP_PX);
      const anchor = Math.abs(Math.cos(middle)) < 0.4 ? "middle" : Math.cos(middle) > 0 ? "end" : "start";
      set(text, { x: inside.x.toFixed(1), y: (inside.y - 8 * Math.sin(middle)).toFixed(1), "text-anchor": anchor });
      const name = arc.key.slice("domain ".length);
      text.textContent = name.length > MAX_NAME ? `${name.slice(0, MAX_NAME - 1)}…` : name;
    });
    const training = this.view.num_training;
    const words = training ? [plural(training, "peer"), `round ${whole(this.view.round)}`] : [];
    each(
      this.middle,
      words.map((text, line) => ({ text, line })),
      ({ line }) => line,
      () => svg("tspan", { x: 0 }),
      (span, { text, line }) => {
        set(span, { y: line ? 17 : -3 });
        span.textContent = text;
      },
    );
  }

  drawPeers() {
    const fastest = Math.max(1e-9, ...this.view.peers.map((peer) => peer.tokens_per_s || 0));
    const busy = this.wires.busy();
    const stop = this.spots.has(this.pinned) ? this.pinned : this.order[0];
    each(this.peers, this.order.map((id) => this.spots.get(id)), ({ peer }) => peer.peer_id, makePeer, (group, spot) => {
      const { peer, angle } = spot;
      const is = condition(peer);
      const speed = Math.sqrt(Math.max(0, peer.tokens_per_s || 0) / fastest);
      const least = Math.max(3, 0.55 * this.largest);
      const r = is.kind === "trains" && peer.has_report ? least + (this.largest - least) * speed : least;
      const classes = ["peer", is.kind];
      if (is.lags) classes.push("lags");
      if (is.silent) classes.push("silent");
      if (busy.has(peer.peer_id)) classes.push("busy");
      if (peer.peer_id === this.pinned) classes.push("pinned");
      if (peer.peer_id === this.pointed) classes.push("pointed");
      set(group, {
        class: classes.join(" "),
        tabindex: peer.peer_id === stop ? 0 : -1,
        "aria-pressed": peer.peer_id === this.pinned,
        "aria-label": `${short(peer.peer_id)}, ${is.words}${peer.domain ? `, ${peer.domain}` : ""}`,
      });
      group.style.transform = `translate(${spot.x.toFixed(1)}px, ${spot.y.toFixed(1)}px)`;
      const [halo, body, gauge, label] = group.children;
      const used = isNumber(peer.utilisation_frac) ? Math.min(1, Math.max(0, peer.utilisation_frac)) : 0;
      const gap = Math.min(4, 0.2 * r + 1.5);
      set(halo, { r: r + 2 * gap + 1 });
      set(body, { x: -r, y: -r, width: 2 * r, height: 2 * r, rx: is.kind === "node" ? 0.2 * r : r });
      set(gauge, { r: r + gap, "stroke-dasharray": `${used.toFixed(3)} 1`, opacity: used ? 1 : 0 });
      this.drawLabel(label, spot, short(peer.peer_id), is.lags ? `−${peer.behind_rounds}` : "");
    });
  }

  drawLabel(label, { angle, x, y }, name, behind) {
    const isLeft = Math.cos(angle) < 0;
    const inwards = this.labels === "none" ? -1 : 1;
    const distance = inwards * (this.largest + LABEL_GAP_PX) + this.radius - Math.hypot(x, y);
    const spot = at(angle, distance);
    const turned = this.labels === "radial" ? (180 / Math.PI) * angle + (isLeft ? 180 : 0) : 0;
    const isBeside = this.labels === "radial" || Math.abs(Math.cos(angle)) > 0.2;
    const anchor = isBeside ? (isLeft === inwards > 0 ? "end" : "start") : "middle";
    const shift = this.labels === "radial" ? 0 : 3 * Math.sin(angle);
    set(label, {
      class: `label ${this.labels}`,
      "text-anchor": anchor,
      transform: `translate(${spot.x.toFixed(1)} ${(spot.y + shift).toFixed(1)}) rotate(${turned.toFixed(1)})`,
    });
    const [first, second] = label.children;
    if (first.textContent !== name) first.textContent = name;
    const isBelow = this.labels === "upright";
    set(second, isBelow ? { x: 0, dy: angle < 0 && !isBeside ? -26 : 12 } : { dy: 0 });
    if (!isBelow) second.removeAttribute("x");
    const words = behind && !isBelow ? ` ${behind}` : behind;
    if (second.textContent !== words) second.textContent = words;
  }

  /** Returns where a peer is, from the middle of a picture so large; undefined if it is nowhere. */
  spotOf(peerId) {
    const spot = this.spots.get(peerId);
    return spot && { x: spot.x, y: spot.y, size: this.root.clientWidth };
  }

  /** Returns the peer nearest to the pointer, if it is near at all. */
  near(event) {
    const box = this.root.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    let [found, least] = [null, NEAR_PX];
    for (const [id, spot] of this.spots) {
      const distance = Math.hypot(spot.x - x, spot.y - y);
      if (distance < least) [found, least] = [id, distance];
    }
    return found;
  }

  point(peerId) {
    if (peerId === this.pointed) return;
    this.highlight(peerId);
    this.onPoint(peerId);
  }

  highlight(peerId) {
    this.pointed = peerId;
    this.root.classList.toggle("points", peerId !== null);
    for (const group of this.peers.children) {
      group.classList.toggle("pointed", group.dataset.peer === peerId);
    }
  }

  onKey(event) {
    const peerId = event.target.dataset?.peer;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (peerId && step) {
      const to = this.order[(this.order.indexOf(peerId) + step + this.order.length) % this.order.length];
      for (const group of this.peers.children) {
        set(group, { tabindex: group.dataset.peer === to ? 0 : -1 });
        if (group.dataset.peer === to) group.focus();
      }
    } else if (peerId && (event.key === "Enter" || event.key === " ")) {
      this.onChoose(peerId);
    } else if (event.key === "Escape") {
      this.onChoose(null);
    } else {
      return;
    }
    event.preventDefault();
  }
}

function makePeer({ peer }) {
  return svg(
    "g",
    { role: "button", "data-peer": peer.peer_id },
    svg("circle", { class: "halo" }),
    svg("rect", { class: "body" }),
    svg("circle", { class: "gauge", pathLength: 1, transform: "rotate(-90)" }),
    svg("text", {}, svg("tspan", { dy: "0.35em" }), svg("tspan", {})),
  );
}

function at(angle, radius) {
  return { x: Math.cos(angle) * radius, y: Math.sin(angle) * radius };
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
