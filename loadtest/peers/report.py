"""What was measured, as Markdown, CSV and SVG."""

import csv
import html
import statistics

from .machine import text_of

RSS = ("rss_kib", "rss_before_kib")


def build(root, binary):
    """Which Portcullis it was."""
    commit = text_of("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10")
    named = f"`{binary.parent.name}` build"
    return f"{named}; the repository is at {commit}" if commit and " " not in commit else named


def number(key, value):
    if key in RSS:
        return f"{value / 1024:,.1f} MiB"
    if key == "rps" or (key.endswith("_us") and key != "cpu_us" and value >= 100):
        return f"{value:,.0f}"
    return f"{value:,.1f}"


def ratio(value, base):
    if not base:
        return ""
    times = value / base
    return f"{times:.2f}×" if times < 10 else f"{times:,.0f}×"


def line(scenario, got):
    """One measurement, for the terminal."""
    parts = [f"{title} {number(key, got[key])}" for key, title, *_ in scenario.columns() if key in got]
    if "busy" in got:
        parts.append(f"core {got['busy']:.0%}" + (f" (others {got['others']:.0%})" if got["others"] > 0.05 else ""))
    return "  ".join(parts) + (wasteful(got) if scenario.load != "idle" else "")


def medians(measurements):
    result = {key: statistics.median(got[key] for got in measurements) for key in measurements[0]}
    if "rps" in result and len(measurements) > 1:
        every = [got["rps"] for got in measurements]
        result["spread"] = (max(every) - min(every)) / result["rps"]
    return result


def order(scenario, figures):
    """The best first, by the first column that can be better or worse."""
    key, _, better, _ = next(column for column in scenario.columns() if column[2])
    return sorted(figures, key=lambda peer: figures[peer][key] * (-1 if better == "more" else 1))


def write(given, facts, chosen, peers, rows):
    """Writes everything; the rows that failed, in words."""
    names = {peer.key: peer for peer in peers}
    folder = given.out / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    tables = {}
    failed = []
    for scenario in chosen:
        of = {key: rows.get((scenario.key, key)) for key in scenario.peers if key in names}
        figures = {key: medians(got) for key, got in of.items() if isinstance(got, list) and got}
        wrong = {key: got for key, got in of.items() if isinstance(got, str)}
        failed += [f"{scenario.title}: {names[key].name}: {why}" for key, why in wrong.items()]
        tables[scenario.key] = figures
        text = picture(scenario, figures, names)
        if text:
            (folder / f"{scenario.key}.svg").write_text(text)
        facts.setdefault("wrong", {})[scenario.key] = wrong
    write_results(folder / "results.csv", chosen, names, facts, tables)
    write_rounds(folder / "rounds.csv", chosen, names, rows)
    (given.out / "benchmarks.md").write_text(markdown(given, facts, chosen, names, tables))
    return failed


def write_results(path, chosen, names, facts, tables):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["scenario", "proxy", "version", "measure", "median", "ratio_to_portcullis", "rounds_spread", "note"])
        for scenario in chosen:
            figures = tables[scenario.key]
            base = figures.get("portcullis", {})
            for key in order(scenario, figures):
                got = figures[key]
                for measure, _, _, _ in scenario.columns():
                    share = f"{got[measure] / base[measure]:.4f}" if base.get(measure) else ""
                    spread = f"{got['spread']:.3f}" if measure == "rps" and "spread" in got else ""
                    out.writerow(
                        [scenario.key, names[key].name, facts["versions"][key], measure, f"{got[measure]:.3f}", share, spread, ""]
                    )
            for key, why in facts["wrong"][scenario.key].items():
                out.writerow([scenario.key, names[key].name, facts["versions"][key], "", "", "", "", why])


def write_rounds(path, chosen, names, rows):
    measures = ["requests", "rps", "cpu_us", "p50_us", "p99_us", "p999_us", "rss_kib", "rss_before_kib", "per_connection_kib",
                "busy", "others", "backend_connections", "logged", "late_p99_us", "waited"]  # fmt: skip
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["scenario", "proxy", "round", *measures])
        for scenario in chosen:
            for key in scenario.peers:
                got = rows.get((scenario.key, key))
                for at, one in enumerate(got if isinstance(got, list) else []):
                    out.writerow(
                        [scenario.key, names[key].name, at + 1, *(f"{one[name]:.4g}" if name in one else "" for name in measures)]
                    )


def markdown(given, facts, chosen, names, tables):
    text = [
        "# Benchmarks",
        "",
        "Portcullis beside other proxies, side by side in one run. Written by `make bench-peers` (`loadtest/peers.py`), not by hand.",
        "",
        *heading(given, facts, names),
        *aims(tables),
        *summary(chosen, names, tables),
    ]
    for scenario in chosen:
        text += section(scenario, tables[scenario.key], facts, names)
    return "\n".join(text).rstrip() + "\n"


def heading(given, facts, names):
    versions = [
        f"{names[key].name} {version}" for key, version in facts["versions"].items() if version and not names[key].counts_as_portcullis
    ]
    about = {
        "date": facts["date"],
        "machine": facts["machine"],
        "Portcullis": f"{facts['versions']['portcullis']} ({facts['build']})",
        "beside": ", ".join(versions),
        "load": f"wrk {facts['tools']['wrk']}, h2load {facts['tools']['h2load']}, `loadtest/peers/pacer.rs`",
        "run": f"{facts['rounds']} round{'s' if facts['rounds'] != 1 else ''} of {given.seconds} s for each row, {facts['minutes']:.0f} minutes in all; "
        f"load average before it {facts['load']:.2f}",
    }
    if facts["absent"]:
        # Why is said where it ran: a build's last words are not for this page.
        about["not there, so not measured"] = ", ".join(facts["absent"])
    if facts["tls"]:
        same = {}
        for key, what in facts["tls"].items():
            same.setdefault(what, []).append(names[key].name)
        about["TLS as negotiated by one client"] = "; ".join(f"{what}: {', '.join(who)}" for what, who in same.items())
    text = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in about.items()), ""]
    if facts["rounds"] < 3 or given.seconds < 2 or facts["load"] > 0.7:
        text += ["**A quick or disturbed run: good for finding out whether everything works, not for comparing.**", ""]
    text += [
        "How it is measured:",
        "",
        "- One proxy at a time, with one worker, bound to one core; the load generator and the backend (nginx, one worker) share the other",
        "  core. Rounds go through all scenarios and all proxies before the next one begins; figures are medians over the rounds, ± is",
        "  (highest − lowest) / median of requests/s.",
        "- Each proxy starts anew for each row. Status and body are checked before and after; a single socket error or wrong status during",
        "  the measurement makes the row fail.",
        "- **CPU µs each** is user and system time of the proxy's process, threads and children, divided by the answers. It is the figure to",
        "  compare: requests/s can be bounded by the other core, and are wherever **core** (how busy the proxy kept its own) is well below",
        "  100 %. **RSS** is the sum over its processes at the end of the load; nginx's master and worker count the pages they share twice.",
        "- Latencies of the closed loops (everything but the fixed rates) are those under full load: they tell how long the queue is, and a",
        "  stalled server is asked less. For latencies read the fixed rates, where request number k is due at k / rate whatever became of",
        "  the others, and its latency counts from that moment: there is no coordinated omission. What the load generator is late by itself",
        "  is part of it, and the row without a proxy shows how much that is.",
        "- In brackets: the figure divided by Portcullis's in the same table.",
        "- No access log and no policies where nothing else is said. Portcullis and Envoy always count metrics. Everybody may keep as many",
        "  connections to the backend as the load needs; where one opens them anew all the same, its row says so. In the gauntlet Envoy checks RS256",
        "  tokens, the others that check any HS256. Bare Pingora is no product: it is what the engine that Portcullis and pingap are built",
        "  on costs with nothing on it.",
        "",
    ]
    return text


def aims(tables):
    """What the project has set itself, as far as this run tells."""

    def of(scenario, peer, key="rps"):
        return tables.get(scenario, {}).get(peer, {}).get(key)

    rows = []

    def versus(title, mine, theirs, least):
        if mine and theirs:
            rows.append((title, f"at least {least}×", f"{mine / theirs:.2f}×", mine / theirs >= least))

    gauntlet = of("gauntlet", "portcullis")
    versus("the gauntlet, against nginx's plain GET, requests/s", gauntlet, of("plain", "nginx"), 0.8)
    for key, name in (("envoy", "Envoy"), ("traefik", "Traefik"), ("caddy", "Caddy"), ("pingap", "pingap")):
        versus(f"the gauntlet, against {name}'s plain GET, requests/s", gauntlet, of("plain", key), 1)
        versus(f"plain GET, against {name}, requests/s", of("plain", "portcullis"), of("plain", key), 2)
    versus("401, against nginx, requests/s", of("unauthorized", "portcullis"), of("unauthorized", "nginx"), 0.9)
    versus("answers of 1 MiB, against nginx, requests/s", of("body-1m", "portcullis"), of("body-1m", "nginx"), 0.8)

    def below(title, value, most, unit):
        if value is not None:
            rows.append((title, f"under {most} {unit}", f"{value:.1f} {unit}", value < most))

    def within(title, mine, theirs, most):
        if mine and theirs:
            rows.append((title, f"at most {most:.2f}×", f"{mine / theirs:.2f}×", mine / theirs <= most))

    bare = of("plain", "bare-pingora", "cpu_us")
    within("the gauntlet, against bare Pingora's plain GET, CPU", of("gauntlet", "portcullis", "cpu_us"), bare, 1.1)

    below("an idle connection", of("idle", "portcullis", "per_connection_kib"), 10, "KiB")
    below("an idle TLS connection", of("idle-tls", "portcullis", "per_connection_kib"), 30, "KiB")
    many, few = of("routes-10000", "portcullis", "rss_kib"), of("plain", "portcullis", "rss_kib")
    if many and few:
        below("10,000 routes, RSS beyond that with one", (many - few) / 1024, 50, "MiB")
    if not rows:
        return []
    return [
        "## The aims",
        "",
        "| | aim | this run | |",
        "|---|---|---:|---|",
        *(f"| {title} | {aim} | {value} | {'reached' if good else '**missed**'} |" for title, aim, value, good in rows),
        "",
    ]


def summary(chosen, names, tables):
    """Every scenario's first figure as a multiple of Portcullis's, one column for each proxy."""
    peers = [key for key in names if key not in ("portcullis", "direct")]
    rows = []
    for scenario in chosen:
        figures = tables[scenario.key]
        for key, title, better in headline(scenario):
            base = figures.get("portcullis", {}).get(key)
            if not base:
                continue
            shares = [ratio(figures[peer][key], base) if peer in figures else "" for peer in peers]
            cells = [f"{scenario.title}, {title} ({better} is better)", number(key, base), *shares]
            rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        return []
    head = ["", "Portcullis", *(names[peer].name for peer in peers)]
    return ["## At a glance", "", "What the others did, as a multiple of Portcullis's figure.", "",
            f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1), *rows, ""]  # fmt: skip


def headline(scenario):
    """The figures that stand for a scenario: (key, title, what is better)."""
    if scenario.load == "idle":
        return [("per_connection_kib", "KiB/connection", "less")]
    if scenario.load == "paced":
        return [("p50_us", "p50 µs", "less"), ("p99_us", "p99 µs", "less"), ("p999_us", "p99.9 µs", "less")]
    return [("rps", scenario.unit, "more"), ("cpu_us", "CPU µs each", "less")]


def wasteful(got):
    """Says so if connections to the backend were not kept, for then two things were measured at once."""
    opened = got["backend_connections"]
    return f", opened {opened:,.0f} connections to the backend" if opened > 500 and opened > got["requests"] / 20 else ""


def section(scenario, figures, facts, names):
    text = [f"## {scenario.title}", "", scenario.about, ""]
    columns = [column for column in scenario.columns() if any(column[0] in got for got in figures.values())]
    if figures:
        text += [f"![{scenario.title}](bench/{scenario.key}.svg)", ""]
    closed = scenario.load != "idle"
    # Where there are no policies, the first table has said it.
    told = scenario.want.kind != "plain" or scenario.key == "plain"
    head = ["", *(title for _, title, _, _ in columns), *(["core"] if closed else []), *(["what it does"] if told else [])]
    text += [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1 - told) + "---|" * told]
    base = figures.get("portcullis", {})
    for key in order(scenario, figures):
        got = figures[key]
        cells = [f"**{names[key].name}**" if key == "portcullis" else names[key].name]
        for measure, _, better, _ in columns:
            cell = number(measure, got[measure])
            if measure == "rps" and better and "spread" in got:
                cell += f" ±{got['spread']:.0%}"
            if better and key != "portcullis" and (share := ratio(got[measure], base.get(measure))):
                cell += f" ({share})"
            cells.append(cell)
        if closed:
            cells.append(f"{got['busy']:.0%}" + (f", others {got['others']:.0%}" if got["others"] > 0.05 else "") + wasteful(got))
        if told:
            cells.append(names[key].kinds[scenario.want.kind])
        text.append(f"| {' | '.join(cells)} |")
    for key, why in facts["wrong"][scenario.key].items():
        said = " ".join(why.split()).replace("|", "\\|")
        text.append(f"| {names[key].name} | {said} |" + " |" * (len(head) - 2))
    if scenario.load == "paced" and figures:
        late = max(got["late_p99_us"] for got in figures.values())
        text += ["", f"The load generator itself was at most {late:,.0f} µs late (p99, median over the rounds)."]
    return [*text, ""]


def picture(scenario, figures, names):
    """Bars, one panel for each figure that is worth one."""
    panels = [column for column in scenario.columns() if column[3]]
    if not figures or not panels:
        return None
    width, left, right, row, top = 760, 190, 130, 22, 40
    ranked = order(scenario, figures)
    height = top + len(panels) * (28 + row * len(ranked) + 10) + 4
    base = figures.get("portcullis", {})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{html.escape(scenario.title)}</title>",
        "<style>text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#24292f}"
        ".h{font-size:16px;font-weight:600}.p{fill:#57606a}.us{font-weight:600}.b{fill:#8c959f}.us.b{fill:#0969da}</style>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="14" y="26" class="h">{html.escape(scenario.title)}</text>',
    ]
    y = top
    for key, title, better, _ in panels:
        parts.append(
            f'<text x="14" y="{y + 18}" class="p">{html.escape(title)} ({"more" if better == "more" else "less"} is better)</text>'
        )
        y += 28
        most = max(max(figures[peer][key] for peer in ranked), 1e-9)
        # The best of this panel on top, whatever the table is sorted by.
        for peer in sorted(ranked, key=lambda peer: figures[peer][key] * (-1 if better == "more" else 1)):
            value = figures[peer][key]
            ours = " us" if names[peer].counts_as_portcullis else ""
            length = max(1.0, (width - left - right) * max(value, 0) / most)
            share = "" if peer == "portcullis" else ratio(value, base.get(key))
            label = f"{number(key, value)}{f'  ({share})' if share else ''}"
            parts += [
                f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" class="n{ours}">{html.escape(names[peer].name)}</text>',
                f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{row - 6}" rx="2" class="b{ours}"/>',
                f'<text x="{left + length + 6:.1f}" y="{y + 15}">{html.escape(label)}</text>',
            ]
            y += row
        y += 10
    return "\n".join([*parts, "</svg>", ""])
