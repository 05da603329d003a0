"use strict";
const $ = id => document.getElementById(id), R = window.REPORT, make = (tag, props = {}, ...kids) => { const e = Object.assign(document.createElement(tag), props); e.append(...kids); return e; };
const state = {a: 0, b: R.entries.length > 1 ? R.entries.length - 1 : -1, diff: false, seen: false, paused: false, frame: 0, at: -1};
const colours = [...document.querySelectorAll("#leaderboard tbody tr")].reduce((all, row) => (all[row.cells[1].textContent.trim().replace(/ *not valid$/, "")] = row.querySelector(".dot").style.background, all), {});

// ---- charts: the page's ink on plotly's paper
function ink() { const probe = document.body.appendChild(make("i")); probe.style.color = "var(--ink)"; const found = getComputedStyle(probe).color; probe.remove(); return found; }
function draw(element, figure) {
  const note = figure ? figure.note : "nothing was drawn here, so there is no cost to show";
  element.classList.toggle("said", !!note);
  if (note) { Plotly.purge(element); element.textContent = note; return; }
  if (element.firstChild && element.firstChild.nodeType === Node.TEXT_NODE) element.textContent = "";
  const pen = ink(), layout = structuredClone(figure.layout), data = structuredClone(figure.data);
  layout.font = {...layout.font, color: pen, family: "system-ui, sans-serif"};
  data.forEach(trace => ["error_x", "error_y"].forEach(bars => { if (trace[bars]) trace[bars].color = pen; }));
  Plotly.react(element, data, layout, {responsive: true, displayModeBar: false});
}
function charts() {
  if (!window.Plotly) return;  // it is large and comes after everything else; its onload calls this again
  document.querySelectorAll("[data-bars]").forEach(e => draw(e, R.charts.bars[e.dataset.bars]));
  if ($("pareto")) draw($("pareto"), R.charts.pareto[`${$("quality").value}|${$("price").value}`]);
}
["quality", "price"].forEach(id => $(id)?.addEventListener("change", charts));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts);
$("theme").addEventListener("click", () => {
  const root = document.documentElement.style, dark = root.colorScheme ? root.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.colorScheme = dark ? "light" : "dark"; charts();
});

// ---- gallery: a card is a caption until it comes near the window
const cards = R.clips.map((clip, i) => {
  const card = make("section", {className: "card clip", tabIndex: 0}, make("div", {className: "cap"}, clip.caption, make("small", {}, [clip.bucket, clip.id].filter(Boolean).join(" · "))), make("div", {className: "takes"}));
  card.addEventListener("focus", () => mark(i));
  return Object.assign(card, {clip, index: i});
});
$("gallery").append(...cards);
if ($("first")) $("first").append(...R.clips.slice(0, 3).map(clip => {
  const takes = make("div", {className: "takes"});
  takes.append(...(clip.truth ? [figure({clip}, "truth", "truth", [clip.truth])] : []), ...clip.takes.slice(0, 4).map((take, i) => figure({clip}, "take", R.entries[i], [take.src], {...take, chips: {}}, i)));
  return make("section", {className: "card hero"}, make("div", {className: "cap"}, clip.caption), takes);
}));
const near = new IntersectionObserver(found => found.forEach(e => e.isIntersecting ? fill(e.target) : clear(e.target)), {rootMargin: "350px"});
cards.forEach(card => near.observe(card));

function video(name) {
  const v = make("video", {muted: true, loop: true, playsInline: true, preload: "auto", src: `clips/${name}`});
  v.addEventListener("loadeddata", () => state.paused ? seek(v) : v.play().catch(() => {}), {once: true});
  return v;
}
function figure(card, what, title, videos, take, index) {
  const screen = make("button", {className: `screen ${what}`, type: "button", title: "frames side by side"}, ...videos.map(video));
  screen.setAttribute("aria-label", `${title}: frames side by side`);
  screen.addEventListener("click", () => strip(card));
  const head = make("figcaption", {}, make("span", {title}, ...(take ? [Object.assign(make("i", {className: "dot"}), {style: `background:${colours[R.entries[index]]}`})] : []), title));
  const out = make("figure", {}, screen, head);
  out.dataset.what = what;
  if (take) {
    if (take.exact !== null && take.exact !== undefined) head.append(make("b", {className: take.exact === 1 ? "ok" : "no"}, take.exact === 1 ? "✓ exact" : take.exact === 0 ? "✗" : take.exact.toFixed(2)));
    out.append(make("div", {className: "chips"}, ...Object.entries(take.chips).map(([k, ok]) => make("span", {className: ok ? "chip ok" : "chip"}, `${ok ? "✓" : "✗"} ${R.words[k] || k}`)), ...Object.entries(take.values || {}).map(([k, x]) => make("span", {className: "chip value"}, `${k} ${x}`))));
    if (state.seen && card.dataset) overlay(screen, out, card.clip.id, index, take);
  }
  return out;
}
function fill(card) {
  const takes = card.querySelector(".takes"), clip = card.clip;
  const shown = [state.a, ...(state.b >= 0 && state.b !== state.a ? [state.b] : [])];
  takes.replaceChildren(...(clip.truth ? [figure(card, "truth", "truth", [clip.truth])] : []), ...(clip.given ? [figure(card, "given", clip.given.title, [clip.given.src])] : []), ...shown.map(i => figure(card, "take", R.entries[i], [clip.takes[i].src], clip.takes[i], i)));
  if (state.diff && (shown.length > 1 || clip.truth)) {
    const pair = shown.length > 1 ? shown.map(i => clip.takes[i].src) : [clip.truth, clip.takes[state.a].src];
    takes.append(figure(card, "diff", shown.length > 1 ? "A − B, brightened" : "truth − A, brightened", pair));
  }
  card.dataset.on = "1";
}
function clear(card) {
  if (!card.dataset.on) return;
  card.style.minHeight = `${card.offsetHeight}px`;
  card.querySelectorAll("video").forEach(v => { v.removeAttribute("src"); v.load(); });
  card.querySelector(".takes").replaceChildren();
  delete card.dataset.on;
}
const live = () => cards.filter(card => card.dataset.on && !card.hidden);
function refill() { cards.forEach(card => card.style.minHeight = ""); live().forEach(fill); }

// ---- time: the first clip of a card leads, the others follow; paused clips stand on one frame
function seek(v) { v.pause(); v.currentTime = (state.frame + 0.5) / R.fps; }
const playing = () => [...document.querySelectorAll(".hero"), ...live()];
setInterval(() => state.paused || playing().forEach(card => {
  const [first, ...rest] = card.querySelectorAll("video");
  rest.forEach(v => { const off = Math.abs(v.currentTime - first.currentTime); if (v.readyState > 1 && off > 0.6 / R.fps && v.duration - off > 0.6 / R.fps) v.currentTime = first.currentTime; });
}), 250);
function pause(on) {
  state.paused = on; $("pause").setAttribute("aria-pressed", on); $("pause").textContent = on ? "play" : "pause";
  if (on) { const lead = live()[0]?.querySelector("video"); state.frame = lead ? Math.min(R.frames - 1, Math.floor(lead.currentTime * R.fps)) : 0; }
  playing().forEach(card => card.querySelectorAll("video").forEach(v => on ? seek(v) : v.play().catch(() => {})));
}
function step(by) { if (!state.paused) pause(true); state.frame = (state.frame + by + R.frames) % R.frames; playing().forEach(card => card.querySelectorAll("video").forEach(seek)); }

// ---- what the oracle sees: masks out of a strip of frames, tracks as lines, a figure as its joints
const BONES = [[5, 7], [7, 9], [6, 8], [8, 10], [5, 6], [5, 11], [6, 12], [11, 12], [11, 13], [13, 15], [12, 14], [14, 16]];  // COCO's order; the face is dots
function overlay(screen, out, id, index, take) {
  const {things = [], figures = []} = (window.OVERLAY[id] || [])[index] || {}, ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 1 1");
  const mask = make("div", {className: "mask"});
  mask.style.backgroundImage = `url("seen/${take.mark}.png")`; mask.style.backgroundSize = `100% ${100 * R.frames}%`;
  const drawn = things.map(thing => {
    const line = document.createElementNS(ns, "polyline"), ring = document.createElementNS(ns, "circle"), name = document.createElementNS(ns, "text");
    line.setAttribute("points", thing.x.map((x, i) => `${x},${thing.y[i]}`).join(" ")); name.textContent = thing.is;
    svg.append(line, ring, name);
    return {thing, ring, name};
  });
  const skeletons = figures.map(figure => {
    const bones = document.createElementNS(ns, "path"), dots = Array.from({length: 17}, () => document.createElementNS(ns, "circle"));
    bones.setAttribute("class", "bones"); dots.forEach(dot => dot.setAttribute("class", "joint"));
    svg.append(bones, ...dots);
    return {figure, bones, dots};
  });
  screen.append(...(figures.length ? [] : [mask]), svg);
  screen.tick = v => {
    const frame = Math.min(R.frames - 1, Math.floor(v.currentTime * R.fps + 1e-3));
    mask.style.backgroundPositionY = R.frames > 1 ? `${100 * frame / (R.frames - 1)}%` : "0";
    skeletons.forEach(({figure, bones, dots}) => {
      const at = figure.joints[frame] || [];
      bones.setAttribute("d", at.length ? BONES.map(([i, j]) => `M${at[i]}L${at[j]}`).join("") : "");
      dots.forEach((dot, i) => { dot.style.display = at.length ? "" : "none"; if (at.length) { dot.setAttribute("cx", at[i][0]); dot.setAttribute("cy", at[i][1]); dot.setAttribute("r", .012); } });
    });
    drawn.forEach(({thing, ring, name}) => {
      const i = thing.f.indexOf(frame); ring.style.display = name.style.display = i < 0 ? "none" : "";
      if (i < 0) return;
      ring.setAttribute("cx", thing.x[i]); ring.setAttribute("cy", thing.y[i]); ring.setAttribute("r", .02);
      const half = .018 * thing.is.length; name.setAttribute("x", Math.min(1 - half, Math.max(half, thing.x[i]))); name.setAttribute("y", thing.y[i] - thing.r[i] < .1 ? thing.y[i] + thing.r[i] + .07 : thing.y[i] - thing.r[i] - .03);
    });
  };
  const said = [...things, ...figures].map(t => `${t.is}, ${t.moves || "moves like nothing known"}`).join("; ");
  out.append(make("p", {className: "saw"}, said || "sees nothing"));
}
function ticking() { if (state.seen) { live().forEach(card => card.querySelectorAll(".screen").forEach(s => s.tick && s.tick(s.querySelector("video")))); requestAnimationFrame(ticking); } }
function see(on) {
  if (!R.oracle) return;
  state.seen = on; $("seen").setAttribute("aria-pressed", on);
  const go = () => { refill(); ticking(); };
  if (!on || window.OVERLAY) return go();
  document.body.append(make("script", {src: "overlay.js", onload: go}));
}

// ---- frames side by side, painted from the clips themselves
async function strip(card) {
  const rows = [...(card.clip.truth ? [["truth", card.clip.truth]] : []), ...(card.clip.given ? [[card.clip.given.title, card.clip.given.src]] : []), ...[...new Set([state.a, state.b])].filter(i => i >= 0).map(i => [R.entries[i], card.clip.takes[i].src])];
  $("strip").querySelector("h3").textContent = card.clip.caption;
  $("strip").querySelector(".rows").replaceChildren(make("div", {}, make("b"), ...Array.from({length: R.frames}, (_, i) => make("i", {}, i))));
  if (!$("strip").open) $("strip").showModal();
  await Promise.all(rows.map(async ([name, src]) => {
    const canvases = Array.from({length: R.frames}, () => make("canvas", {width: 128, height: 128}));
    $("strip").querySelector(".rows").append(make("div", {}, make("b", {}, name), ...canvases));
    const v = make("video", {muted: true, preload: "auto", src: `clips/${src}`});
    await new Promise(done => { v.onloadeddata = done; v.onerror = done; });
    for (const [i, canvas] of canvases.entries()) {
      await new Promise(done => { v.onseeked = done; v.currentTime = (i + 0.5) / R.fps; });
      canvas.getContext("2d").drawImage(v, 0, 0, 128, 128); canvas.dataset.painted = "1";
    }
    v.removeAttribute("src"); v.load();
  }));
}

// ---- filters and order
const merit = take => (take.exact || 0) + Object.values(take.chips).reduce((x, y) => x + y, 0) / Math.max(1, Object.keys(take.chips).length);
const fails = (take, what) => what === "exact" ? take.exact !== 1 : take.chips[what] === 0;
function filter() {
  const bucket = $("bucket").value, failing = $("failing").value, who = $("who").value, words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  cards.forEach(card => {
    const takes = who === "" ? card.clip.takes : [card.clip.takes[+who]];
    const keep = (!bucket || card.clip.bucket === bucket) && (!failing || takes.some(t => fails(t, failing))) && words.every(w => card.clip.caption.toLowerCase().includes(w));
    card.hidden = !keep; n += keep;
  });
  $("shown").textContent = n; $("none").hidden = n > 0;
}
function sort() {
  const how = $("sort").value, worst = card => card.clip.takes.reduce((x, t) => x + merit(t), 0), apart = card => state.b < 0 ? 0 : -Math.abs(merit(card.clip.takes[state.a]) - merit(card.clip.takes[state.b]));
  const rank = {worst, apart}[how] || (card => card.index);
  $("gallery").append(...[...cards].sort((x, y) => rank(x) - rank(y) || x.index - y.index));
}
["bucket", "failing", "who"].forEach(id => $(id).addEventListener("change", filter));
$("words").addEventListener("input", filter);
$("sort").addEventListener("change", sort);
function choose(side, i) { state[side] = i; if ($(side)) $(side).value = i; sort(); refill(); }
["a", "b"].forEach(side => $(side) && $(side).addEventListener("change", () => choose(side, +$(side).value)));
function difference(on) { state.diff = on; $("diff").setAttribute("aria-pressed", on); refill(); }
$("diff").addEventListener("click", () => difference(!state.diff));
$("seen").addEventListener("click", () => see(!state.seen));
$("pause").addEventListener("click", () => pause(!state.paused));
$("help").addEventListener("click", () => $("keys").showModal());

// ---- keys
function mark(i) { cards[state.at]?.classList.remove("at"); state.at = i; cards[i].classList.add("at"); }
function move(by) {
  const order = [...$("gallery").children].filter(card => !card.hidden);
  const next = order[Math.min(order.length - 1, Math.max(0, order.findIndex(card => card.index === state.at) + by))];
  if (next) { next.focus({preventScroll: true}); next.scrollIntoView({block: "start"}); }
}
const keys = {
  j: () => move(1), k: () => move(-1), " ": () => pause(!state.paused), ArrowRight: () => step(1), ArrowLeft: () => step(-1), d: () => difference(!state.diff), o: () => see(!state.seen),
  s: () => state.at >= 0 && strip(cards[state.at]), Enter: () => state.at >= 0 && strip(cards[state.at]), a: () => choose("a", (state.a + 1) % R.entries.length),
  b: () => state.b >= 0 && choose("b", (state.b + 1) % R.entries.length), "/": () => $("words").focus(), "?": () => $("keys").showModal(),
};
addEventListener("keydown", e => {
  const writing = e.target.matches("input,select,textarea") || document.querySelector("dialog[open]") || (e.target.matches("button,summary,a") && (e.key === " " || e.key === "Enter"));
  if (e.ctrlKey || e.metaKey || e.altKey || writing || !keys[e.key]) return;
  e.preventDefault(); keys[e.key]();
});
