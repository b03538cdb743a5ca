"use strict";

// Everything that comes from the proxy was chosen by programs that may be hostile:
// it is put into the page as text, and kept within these bounds.
const KEPT = 2000; // uses
const SHOWN = 100; // uses on the page, until more are asked for
const DESTINATIONS = 60;
const SECRETS = 20;
const MENDS = 30;
const SLOT = 10_000; // ms, the resolution of the timeline
const DAY = 24 * 60 * 60 * 1000;

const $ = (id) => document.getElementById(id);

// make builds an element; children are elements or text.
function make(tag, attributes = {}, ...children) {
	const e = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name === "class") e.className = value;
		else if (name === "click") e.addEventListener("click", value);
		else e.setAttribute(name, value);
	}
	e.append(...children);
	return e;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const number = new Intl.NumberFormat("en");
const times = (n) => (n === 1 ? "once" : number.format(n) + " times");
const valid = (time) => (Number.isNaN(time) ? Date.now() : time);

// --- what has happened ---

const uses = []; // newest last
const slots = new Map(); // start of slot: counts of the timeline
const secrets = new Map(); // key: {label, used, last}
const destinations = new Map(); // name: {cells, refused, used, last}
const mends = new Map(); // key: {item, count, last}
let left = 0; // uses in rows and columns that have been given up
let since = 0;

// Words for the outcomes of records, with their tone and the group they count in.
const OUTCOMES = {
	replaced: ["good", "replaced"], stripped: ["warn", "stripped"], refused: ["bad", "refused"], denied: ["bad", "refused"],
	left: ["info", "other"], unscanned: ["info", "other"], warning: ["warn", "other"], missed: ["warn", "other"],
	LOST: ["bad", "other"], found: ["good", "other"],
};
const KINDS = { refused: "refused", unrestricted: "warning", namespace_lost: "LOST", namespace_found: "found", missed: "missed" };
const ACTIONS = { replace: "replaced", strip: "stripped", deny: "denied" };
const REASONS = {
	host: "not for this destination", expired: "expired", method: "not for this method", path: "not for this path",
	undecodable: "no key opens it",
};

// outcome is the word for a record: the worst that became of its tokens.
function outcome(r) {
	if (KINDS[r.kind]) return KINDS[r.kind];
	const words = (r.tokens || []).map((t) => ACTIONS[t.action] || "left");
	return ["stripped", "denied", "left", "replaced"].find((w) => words.includes(w)) || "unscanned";
}

// secretOf names the secret of a token. All tokens that no key opens are one: a
// client can make as many of them as it likes.
function secretOf(t) {
	if (t.name) return ["name " + t.name, t.name];
	if (t.reason === "undecodable") return ["unknown", "unknown tokens"];
	return ["id " + t.id, "token " + t.id];
}

// take notes a record in everything but the list on the page.
function take(r) {
	const use = { r, word: outcome(r), time: valid(Date.parse(r.time)), secrets: (r.tokens || []).map((t) => secretOf(t)[0]) };
	use.group = OUTCOMES[use.word][1];
	use.find = [r.destination, r.path, r.method, r.client, r.rule, r.reason, r.not_scanned, r.namespace, use.word,
		...(r.tokens || []).map((t) => secretOf(t)[1] + " " + t.id)].join(" ").toLowerCase();
	since = since || use.time;
	uses.push(use);
	if (uses.length > KEPT + 200) uses.splice(0, uses.length - KEPT);
	noteTime(use);
	if (r.kind === "refused" && r.destination) noteRefusal(use);
	if (r.kind === "tokens" && r.destination) (r.tokens || []).forEach((t) => noteToken(use, t));
	if (r.kind === "namespace_lost" || r.kind === "namespace_found") askStatus();
	if (r.kind === "missed") {
		$("missed").hidden = false;
		$("missed").textContent = "Some uses came too fast to be shown here; the proxy's log has them all.";
	}
	return use;
}

function noteTime(use) {
	if (use.group === "other" || use.word === "denied") return; // what is denied is refused as well
	const start = Math.floor(use.time / SLOT) * SLOT;
	if (!slots.has(start)) slots.set(start, { replaced: 0, stripped: 0, refused: 0 });
	slots.get(start)[use.group]++;
	for (const old of slots.keys()) { // they come in order
		if (slots.size <= DAY / SLOT && old > Date.now() - DAY - SLOT) break;
		slots.delete(old);
	}
}

// giveUp makes room: first for what has never had a value, then for the oldest.
function giveUp(map, limit, drop) {
	if (map.size < limit) return;
	const [key, lost] = [...map].reduce((a, b) => (a[1].used > 0 !== b[1].used > 0 ? (b[1].used > 0 ? a : b) : b[1].last < a[1].last ? b : a));
	map.delete(key);
	drop(key, lost);
}

// --- the matrix ---

const cell = () => ({ good: 0, bad: 0, last: 0 });
const count = (cells) => cells.reduce((sum, c) => sum + c.good + c.bad, 0);

function destinationOf(name) {
	let d = destinations.get(name);
	if (!d) {
		giveUp(destinations, DESTINATIONS, (_, lost) => (left += count([lost.refused, ...lost.cells.values()])));
		d = { cells: new Map(), refused: cell(), used: 0, last: 0 };
		destinations.set(name, d);
	}
	return d;
}

function secretAt(key, label) {
	let s = secrets.get(key);
	if (!s) {
		giveUp(secrets, SECRETS, (old) => {
			for (const d of destinations.values()) {
				if (d.cells.has(old)) left += count([d.cells.get(old)]);
				d.cells.delete(old);
			}
		});
		s = { label, used: 0, last: 0 };
		secrets.set(key, s);
	}
	return s;
}

function noteToken(use, t) {
	const [key, label] = secretOf(t);
	const s = secretAt(key, label), d = destinationOf(use.r.destination);
	if (!d.cells.has(key)) d.cells.set(key, cell());
	const c = d.cells.get(key);
	for (const counted of [d, s, c]) counted.last = use.time;
	if (t.action === "replace") d.used++, s.used++, c.good++;
	else c.bad++;
}

function noteRefusal(use) {
	const d = destinationOf(use.r.destination);
	d.last = d.refused.last = use.time;
	d.refused.bad++;
	noteMend(use);
}

// What of it is on the page. Rows and columns stay where they are, so that the focus does.
const heads = new Map(); // key of secret: heading
const rows = new Map(); // destination: {element, places, refused}
const matrixBody = $("matrix").tBodies[0];
const refusedHead = make("th", { scope: "col" }, "refused");
$("matrix").tHead.rows[0].append(refusedHead);

function showMatrix() {
	for (const [key, head] of heads) if (!secrets.has(key)) dropColumn(key, head);
	for (const [name, row] of rows) {
		if (destinations.has(name)) continue;
		row.element.remove();
		rows.delete(name);
	}
	for (const [key, s] of secrets) if (!heads.has(key)) addColumn(key, s.label);
	for (const [name, d] of destinations) {
		if (!rows.has(name)) addRow(name);
		const row = rows.get(name);
		for (const [key, c] of d.cells) showCell(row.places.get(key), c, false, () => choose({ destination: name, secret: key, label: secrets.get(key).label + " to " + name }));
		if (d.refused.bad) showCell(row.refused, d.refused, true, () => choose({ destination: name, group: "refused", label: "refused to " + name }));
	}
	$("matrix-note").textContent = "Since " + full.format(since) + (left ? ", without " + number.format(left) + " of rows given up for newer ones." : ".");
}

function dropColumn(key, head) {
	head.remove();
	heads.delete(key);
	for (const { places } of rows.values()) {
		places.get(key).remove();
		places.delete(key);
	}
}

function addColumn(key, label) {
	heads.set(key, make("th", { scope: "col", class: "mono" }, clipped(label)));
	refusedHead.before(heads.get(key));
	for (const row of rows.values()) addPlace(row, key);
}

function addRow(name) {
	const row = { places: new Map(), refused: make("td") };
	row.element = make("tr", {}, make("th", { scope: "row", class: "mono" }, clipped(name)), row.refused);
	for (const key of heads.keys()) addPlace(row, key);
	matrixBody.append(row.element);
	rows.set(name, row);
}

// clipped shows the beginning of what may be long.
const clipped = (text) => make("span", { class: "clip", title: text }, text);

function addPlace(row, key) {
	row.places.set(key, make("td"));
	row.refused.before(row.places.get(key));
}

function showCell(place, c, refused, click) {
	const button = place.firstChild || place.appendChild(make("button", { type: "button", click }));
	const bad = c.bad ? number.format(c.bad) + (refused ? "" : c.good ? " not" : " not replaced") : "";
	const text = [c.good ? number.format(c.good) : "", bad].filter(Boolean).join(" · ");
	if (button.textContent === text) return;
	button.textContent = text;
	button.className = c.bad ? (refused ? "bad" : "warn") : "good";
	button.title = "last " + full.format(c.last);
}

// --- refusals, and what to do ---

function noteMend(use) {
	const r = use.r, key = JSON.stringify([r.rule, r.destination, r.mend]);
	let m = mends.get(key);
	if (!m) {
		giveUp(mends, MENDS, (_, lost) => lost.item.remove());
		m = { count: 0, used: 0, counted: make("span", { class: "count" }) };
		m.item = make("li", {}, make("div", { class: "text" }, r.reason || r.rule || "refused", " ", m.counted));
		if (r.mend) m.item.append(mendLine(r.mend));
		mends.set(key, m);
		$("mend-list").prepend(m.item);
	}
	m.count++;
	m.last = use.time;
	m.counted.textContent = times(m.count) + ", last " + clock.format(m.last);
}

// mendLine shows what to do, with the very line to copy where there is one.
function mendLine(mend) {
	const parts = mend.split("`"); // what is between two of them is to be typed
	const text = make("span", { class: "text" }, ...parts.map((p, i) => (i % 2 ? make("code", {}, p) : p)));
	const line = parts.length > 2 ? parts[1] : mend;
	const copy = make("button", { type: "button", click: () => copyText(line, copy), "aria-label": "Copy " + line }, "Copy");
	return make("div", { class: "mend" }, text, copy);
}

async function copyText(text, button) {
	let done = true;
	try {
		await navigator.clipboard.writeText(text);
	} catch { // not a secure context
		const area = make("textarea", { class: "hidden", "aria-hidden": "true" });
		area.value = text;
		document.body.append(area);
		area.select();
		done = document.execCommand("copy");
		area.remove();
		button.focus();
	}
	$("copied").textContent = button.textContent = done ? "Copied" : "Select and copy it yourself";
	setTimeout(() => (button.textContent = "Copy"), 1500);
}

// --- the timeline ---

const SVG = "http://www.w3.org/2000/svg";
const BARS = 60;
const SERIES = ["replaced", "stripped", "refused"];
const bars = Array.from({ length: BARS }, (_, i) => SERIES.map((name) => {
	const rect = document.createElementNS(SVG, "rect");
	rect.setAttribute("class", name);
	rect.setAttribute("x", i * 10 + 1);
	rect.setAttribute("width", 8);
	$("timeline").append(rect);
	return rect;
}));

function showTimeline() {
	const width = (Number($("range").value) * 60_000) / BARS;
	const end = Math.floor(Date.now() / width) * width + width;
	const heights = Array.from({ length: BARS }, () => ({ replaced: 0, stripped: 0, refused: 0 }));
	const sum = { replaced: 0, stripped: 0, refused: 0 };
	for (const [start, counts] of slots) {
		const bar = heights[BARS - 1 - Math.floor((end - 1 - start) / width)];
		if (bar) for (const name of SERIES) bar[name] += counts[name], sum[name] += counts[name];
	}
	const top = Math.max(1, ...heights.map((h) => h.replaced + h.stripped + h.refused));
	heights.forEach((h, i) => {
		let y = 90;
		SERIES.forEach((name, j) => {
			const height = (h[name] / top) * 86;
			y -= height;
			bars[i][j].setAttribute("y", y);
			bars[i][j].setAttribute("height", height);
		});
	});
	const text = SERIES.map((name) => number.format(sum[name]) + " " + name);
	$("legend").replaceChildren(...text.flatMap((t, i) => [i ? " · " : "", make("span", { class: "key " + SERIES[i] }, t)]));
	$("axis-from").textContent = clock.format(end - BARS * width).slice(0, 5);
	$("timeline").setAttribute("aria-label", "Requests over time: " + text.join(", "));
}
