// --- what comes from the proxy ---

let arrived = []; // uses that the page does not show yet
let flushing = 0, changed = false;

// flush brings the page up to date, a few times a second however much comes.
function flush() {
	flushing = 0;
	const came = arrived;
	arrived = [];
	$("empty").hidden = true;
	$("content").hidden = false;
	$("mends").hidden = mends.size === 0;
	askSoon();
	showMatrix();
	changed = true;
	if (paused) {
		waiting += came.length;
		showPause();
	} else addToList(came);
}

// fresh tells records from those that a new connection replays. Their ids are an
// epoch, of the process, and a number.
let epoch = "", last = 0;
function fresh(id) {
	const at = id.lastIndexOf("-"), n = Number(id.slice(at + 1));
	if (at < 0) return true;
	if (id.slice(0, at) === epoch && n <= last) return false;
	[epoch, last] = [id.slice(0, at), n];
	return true;
}

function connect() {
	const source = new EventSource("events?replay=1000");
	source.onopen = () => {
		setState("live");
		askStatus();
		setTimeout(() => ($("empty").hidden = uses.length > 0), 300);
	};
	source.onmessage = (event) => {
		const record = JSON.parse(event.data);
		if (!fresh(record.id || "")) return;
		arrived.push(take(record));
		if (arrived.length > KEPT) arrived.shift();
		flushing = flushing || setTimeout(flush, 200);
	};
	source.onerror = () => {
		setState("lost");
		if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
		source.close();
		setTimeout(connect, 2000);
	};
}

function setState(state) {
	$("state").dataset.state = state;
	$("state").textContent = state === "lost" ? "reconnecting" : state;
	$("stream-lost").hidden = state !== "lost";
}

// --- how the proxy is doing ---

let asked = 0, asking = 0;

// askSoon brings the counts up to date, now and then while much happens.
function askSoon() {
	asking = asking || setTimeout(() => {
		asking = 0;
		askStatus();
	}, 3000);
}

async function askStatus() {
	const turn = ++asked;
	try {
		const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(8000) });
		if (answer.ok && turn === asked) showStatus(await answer.json());
	} catch {
		// The stream tells that the proxy is not to be reached.
	}
}

function showStatus(s) {
	const c = s.counts;
	const tiles = [["requests", c.requests], ["replaced", c.tokens_replaced], ["stripped", c.tokens_stripped],
		["refused", c.refused], ["unknown tokens", c.tokens_undecodable], ["tunnels", c.tunnels_intercepted + c.tunnels_blind]];
	$("counts").replaceChildren(...tiles.map(([name, n]) => make("div", {}, make("dt", {}, name), make("dd", {}, number.format(n)))));
	const lost = s.namespace && s.namespace.lost;
	$("namespace-lost").hidden = !lost;
	if (lost) $("namespace-lost").textContent = `The namespace ${s.namespace.name} is lost: ${lost}. Restart Caddy, which makes it anew; programs in it have to join again.`;
	$("tier").textContent = `tier ${s.tier.level}, ${s.tier.driver}`;
	$("tier").dataset.state = s.tier.level > 0 ? "high" : "low";
	showFacts(s);
}

let factsShown = "";

function showFacts(s) {
	const rows = [["isolation", tierText(s.tier)]];
	if (s.namespace) rows.push(["namespace", `${s.namespace.name}, at ${s.namespace.path}`]);
	if (s.attach) rows.push(["commands attached", `${s.attach.commands}, by ${s.attach.socket}`]);
	for (const p of s.proxies || []) {
		rows.push(["proxy", `${p.listen.join(", ") || "no address of its own"}: ${p.intercept ? "looks into tunnels" : "looks into no tunnel"}, ${p.keys} ${p.keys === 1 ? "key" : "keys"}`]);
	}
	rows.push(["authority", "SHA-256 " + s.ca.fingerprint], ["its age", ageText(s.ca)], ["bundle for clients", s.ca.bundle]);
	const text = JSON.stringify(rows);
	if (text === factsShown) return; // somebody may be selecting text
	factsShown = text;
	$("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

// tierText says how strong the isolation is, and why it is not stronger.
function tierText(tier) {
	if (tier.level > 0) return `tier ${tier.level}, ${tier.driver}: the kernel keeps programs from going around the proxy. There is no higher one.`;
	const why = tier.line.match(/\((.*)\)/);
	return "tier 0, " + tier.driver + ": programs are asked by their environment to use the proxy, and one that ignores it goes around." + (why ? " Not tier 1: " + why[1] + "." : "");
}

function ageText(ca) {
	const from = Date.parse(ca.not_before), until = Date.parse(ca.not_after);
	const days = Math.floor((Date.now() - from) / DAY), rest = Math.floor((until - Date.now()) / DAY);
	const age = days < 1 ? "made today" : `${number.format(days)} ${days === 1 ? "day" : "days"}, since ${day.format(from)}`;
	return `${age}; valid until ${day.format(until)}` + (rest < 30 ? `, ${Math.max(0, rest)} days from now: have it renewed` : "");
}

setInterval(() => {
	if (!document.hidden) askStatus();
}, 10_000);
setInterval(() => {
	if (document.hidden || (!changed && Date.now() % 10_000 > 1000)) return;
	changed = false;
	showTimeline();
}, 1000);
showTimeline();
askStatus();
connect();
