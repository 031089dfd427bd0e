// Numbers, sizes and times as people read them; the same spelling as on `thinwire`'s own screens.

export const NOTHING = "–";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function threeDigits(value, space, units) {
  if (!isNumber(value)) return NOTHING;
  let power = 0;
  while (Number(value.toPrecision(3)) >= 1000 && power < units.length - 1) {
    value /= 1000;
    power += 1;
  }
  const rounded = Number(value.toPrecision(3));
  return `${rounded < 1000 ? rounded : Math.round(value)}${space}${units[power]}`;
}

/** 350M, 1B */
export const count = (value) => threeDigits(value, "", ["", "k", "M", "B", "T"]);

/** 12,345 */
export const whole = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : NOTHING);

/** 20 Mbit/s; a rate of nothing is one that is not known */
export const rate = (bps) => (bps ? `${threeDigits(bps, " ", ["", "k", "M", "G", "T"])}bit/s` : NOTHING);

/** 20.5 MB */
export function bytes(value) {
  if (!isNumber(value)) return NOTHING;
  if (value < 1000) return `${Math.round(value)} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    value /= 1000;
    if (value < 999.95) return `${value.toFixed(1)} ${unit}`;
  }
  return `${(value / 1000).toFixed(1)} TB`;
}

/** 1.532, in bits per byte */
export const loss = (value) => (isNumber(value) ? value.toFixed(3) : NOTHING);

/** 93 % */
export const percent = (frac) => (isNumber(frac) ? `${Math.round(100 * frac)} %` : NOTHING);

/** 80 ms, 1.5 s, 2 h 5 min */
export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return NOTHING;
  if (seconds < 0.9995) return seconds ? `${Number((1000 * seconds).toPrecision(3))} ms` : "0 s";
  if (seconds < 59.95) return `${Number(seconds.toPrecision(3))} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  for (let i = 0; i < units.length - 1; i += 1) {
    const [[large, largeS], [small, smallS]] = [units[i], units[i + 1]];
    const wholeS = smallS * Math.round(seconds / smallS);
    if (wholeS >= largeS) {
      const rest = Math.floor((wholeS % largeS) / smallS);
      return `${Math.floor(wholeS / largeS)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
    }
  }
  return NOTHING;
}

/** 14:03 or, with seconds, 14:03:59; where the reader is */
export function clock(unixS, withSeconds = true) {
  if (!isNumber(unixS)) return NOTHING;
  const date = new Date(1000 * unixS);
  if (Number.isNaN(date.getTime())) return NOTHING;
  const parts = [date.getHours(), date.getMinutes(), ...(withSeconds ? [date.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** The end of a peer's id: the beginning is the same for all. */
export const short = (peerId) => peerId.slice(-6);

export const plural = (number, word) => `${whole(number)} ${word}${number === 1 ? "" : "s"}`;

/** How a peer is: what it looks like (`kind`), what else is the matter, and all of it in words. */
export function condition(peer) {
  const trains = peer.role === "peer";
  const kind = { peer: "trains", bootstrap: "node", holder: "holds", coming: "coming", left: "left" }[peer.role];
  const lags = trains && peer.behind_rounds >= 2;
  const silent = !peer.has_report && (trains || peer.role === "holder");
  const said = {
    trains: "training",
    node: "bootstrap node",
    holds: "finished",
    coming: "coming",
    left: "has left",
  };
  const words = [lags ? `lags ${plural(peer.behind_rounds, "round")}` : (said[kind] ?? peer.role)];
  if (silent) words.push("no report");
  return { kind: kind ?? "coming", lags, silent, words: words.join(", ") };
}

/** What a peer waits for longest, or nothing. */
export function waitWords(wait) {
  return `${wait.name}${wait.whom ? ` from ${wait.whom}` : ""}, ${duration(wait.for_s)}`;
}

/** The same exchange, whoever tells of it. */
export function exchangeKey(exchange) {
  const members = [exchange.peer_id, ...exchange.partners].sort();
  return `${exchange.round}/${exchange.fragment}/${members.join(",")}`;
}
