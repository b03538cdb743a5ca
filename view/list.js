// --- the list ---

const GROUPS = ["all", "replaced", "stripped", "refused", "masked", "other"];
const filter = { text: "", group: "all", chosen: null };
let shown = SHOWN, paused = false, waiting = 0;

function matches(use) {
	const { text, group, chosen } = filter;
	if (text && !use.find.includes(text)) return false;
	if (group === "masked" ? !use.r.masked : group !== "all" && use.group !== group) return false;
	if (!chosen) return true;
	return use.r.destination === chosen.destination && (!chosen.secret || use.secrets.includes(chosen.secret)) && (!chosen.group || use.group === chosen.group);
}

function item(use) {
	const r = use.r;
	const what = make("div", { class: "what" });
	const subject = r.namespace ? "namespace " + r.namespace : r.missed ? r.missed + " uses were missed" : [r.method, (r.destination || "") + (r.path || "")].filter(Boolean).join(" ");
	what.append(make("div", { class: "text mono" }, subject, make("span", { class: "count" }, (r.status ? " → " + r.status : "") + (r.client ? "  from " + r.client : ""))));
	const detail = (...parts) => what.append(make("div", { class: "detail text" }, ...parts));
	for (const t of r.tokens || []) {
		detail(make("span", { class: "mono" }, t.name || "token"), ` ${t.id} in ${t.place}: ${ACTIONS[t.action] || "left as it is"}${t.reason ? ", " + (REASONS[t.reason] || t.reason) : ""}`);
	}
	if (r.more_tokens) detail(`and ${r.more_tokens} more tokens`);
	if (r.masked) detail(`masked in the answer: ${times(r.masked)}`);
	if (r.not_scanned) detail("body not looked into: " + r.not_scanned);
	if (r.reason) detail((r.rule ? r.rule + ": " : "") + r.reason);
	if (r.mend) what.append(mendLine(r.mend));
	return make("li", {}, make("time", { datetime: r.time, title: full.format(use.time) }, clock.format(use.time)),
		make("span", { class: "badge " + OUTCOMES[use.word][0] }, use.word), what);
}

// rebuildList shows the newest uses that match.
function rebuildList() {
	const found = [];
	let more = false;
	for (let i = uses.length - 1; i >= 0 && !more; i--) {
		if (!matches(uses[i])) continue;
		more = found.length === shown;
		if (!more) found.push(item(uses[i]));
	}
	$("list").replaceChildren(...found);
	$("more").hidden = !more;
	$("none").hidden = found.length > 0;
	waiting = 0;
}

// addToList puts what has come in front of what is there.
function addToList(came) {
	const found = came.filter(matches);
	if (found.length === 0) return;
	$("list").prepend(...found.slice(-shown).reverse().map(item));
	while ($("list").childElementCount > shown) {
		$("list").lastElementChild.remove();
		$("more").hidden = false;
	}
	$("none").hidden = true;
}

function choose(chosen) {
	filter.chosen = chosen;
	$("chosen").hidden = !chosen;
	$("chosen").textContent = chosen ? chosen.label + " ✕" : "";
	$("chosen").setAttribute("aria-label", chosen ? "Only " + chosen.label + ": show all again" : "");
	refilter();
	$("uses").scrollIntoView();
	$(chosen ? "chosen" : "search").focus({ preventScroll: true });
}

function refilter() {
	shown = SHOWN;
	rebuildList();
}

for (const name of GROUPS) {
	const button = make("button", { type: "button", "aria-pressed": String(name === "all") }, name);
	button.addEventListener("click", () => {
		filter.group = name;
		for (const b of $("groups").children) b.setAttribute("aria-pressed", String(b === button));
		refilter();
	});
	$("groups").append(button);
}
$("search").addEventListener("input", () => {
	filter.text = $("search").value.trim().toLowerCase();
	refilter();
});
$("chosen").addEventListener("click", () => choose(null));
$("range").addEventListener("change", showTimeline);
$("more").addEventListener("click", () => {
	shown += SHOWN;
	rebuildList();
});
$("pause").addEventListener("click", () => {
	paused = !paused;
	$("pause").setAttribute("aria-pressed", String(paused));
	showPause();
	if (!paused) rebuildList();
});

function showPause() {
	$("pause").textContent = !paused ? "Pause" : waiting ? `Go on (${number.format(waiting)} new)` : "Go on";
}
