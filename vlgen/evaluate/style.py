"""The style of the page: light, dark and paper, from a phone to a desk."""

from __future__ import annotations

LIGHT = {
    "bg": "#f6f7f9", "card": "#ffffff", "fg": "#1a2230", "muted": "#566173", "line": "#d9dee6", "accent": "#1d5a9e",
    "s0": "#1d5a9e", "s1": "#b04a06", "s2": "#217346", "s3": "#7a3fb0", "s4": "#a8244a", "s5": "#0a6f78",
}  # fmt: skip
DARK = {
    "bg": "#12161d", "card": "#1a202a", "fg": "#e6eaf0", "muted": "#a3aebd", "line": "#343d4b", "accent": "#85b8f2",
    "s0": "#7db4f0", "s1": "#f0a35e", "s2": "#7fce95", "s3": "#c5a5f0", "s4": "#f293a8", "s5": "#63d0d2",
}  # fmt: skip


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--bg); color: var(--fg);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 64rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.25rem; } footer { padding-top: 1.5rem; padding-bottom: 3rem; color: var(--muted); }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0; } h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .4rem 0; overflow-wrap: break-word; } a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.kicker { color: var(--muted); margin: 0 0 .3rem; font-size: .9rem; } .soft { color: var(--muted); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem; }
section.card { margin: 1.5rem 0; padding: 1.4rem 1.5rem; }
.question { font-size: 1.05rem; color: var(--muted); margin: .1rem 0 .6rem; }
.lead { border-left: 4px solid var(--accent); padding: .1rem 0 .1rem .8rem; margin: .8rem 0; font-weight: 600; }
.notes { margin: .6rem 0; padding-left: 1.2rem; color: var(--muted); font-size: .92rem; overflow-wrap: break-word; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr));
  margin: 1rem 0; }
.cards .n { font-size: 1.5rem; font-weight: 650; line-height: 1.2; }
dl.facts { display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: .5rem 0 0; font-size: .92rem; }
dl.facts dt { color: var(--muted); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.overview { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: .6rem; }
.overview li { display: grid; grid-template-columns: minmax(0, 7rem) 1fr; } .overview a { font-weight: 650; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: .85rem; padding-bottom: .3rem; }
th, td { padding: .36rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; } th[scope=row] { font-weight: 500; }
thead th { color: var(--muted); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
th[scope=rowgroup] { padding-top: .9rem; font-weight: 650; color: var(--fg); }
.num, .ci { white-space: nowrap; } .ci { color: var(--muted); display: inline-block; margin-left: .35rem; }
.dir { color: var(--muted); margin-left: .25rem; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.figures { display: grid; gap: 1.2rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); margin: 1.1rem 0; }
figure { margin: 0; max-width: 34rem; } figure.picture { max-width: 100%; margin: 1.1rem 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .4rem; }
figure.picture figcaption { font-weight: 400; color: var(--muted); margin: .4rem 0 0; }
figure.picture img { max-width: 100%; height: auto; display: block; border: 1px solid var(--line);
  border-radius: 4px; }
details { margin: .7rem 0; } summary { cursor: pointer; color: var(--accent); font-weight: 600; padding: .2rem 0; }
figure details { font-size: .85rem; } .refused { font-size: .85rem; padding-left: 1.1rem; overflow-wrap: anywhere; }
dl.glossary dt { font-weight: 650; margin-top: .7rem; } dl.glossary dd { margin: 0; }
  dl.glossary .soft { font-size: .9rem; }
pre { max-height: 26rem; overflow: auto; font-size: .78rem; line-height: 1.4; background: var(--bg);
  border: 1px solid var(--line); padding: .8rem; border-radius: 6px; }
@media (max-width: 34rem) {
  main, header, footer { padding-left: .6rem; padding-right: .6rem; } section.card { padding: 1.1rem .6rem; }
  thead th { font-size: .92em; }
  table { font-size: .78rem; } th, td { padding: .34rem .2rem; }
  .overview li, .overview a, .ci { display: block; } .ci { margin: 0; font-size: .92em; }
}
"""
    + "@media print {\n"
    + f":root {{ color-scheme: light; {_variables(LIGHT | {'bg': '#ffffff'})} }}\n"
    + """
@page { margin: 15mm; }
body { font-size: 10pt; } .card { border-radius: 0; } section.card { border: 0; padding: 0; margin: 0 0 1.2rem; }
main, header, footer { max-width: none; padding: 0; } .json, .skip, figure details { display: none; }
th, td { padding-top: .18rem; padding-bottom: .18rem; } table { font-size: 9pt; }
.cards { grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
tr:has(th[scope=rowgroup]) { break-after: avoid; }
  .wide, pre { overflow: visible; max-height: none; }
h2, h3, figcaption, caption, summary { break-after: avoid; } figure, tr, dt, .cards > * { break-inside: avoid;
  } dt { break-after: avoid; }
details:not([open])::details-content { content-visibility: visible; display: block; block-size: auto; }
  summary { list-style: none; color: inherit; }
.figures { grid-template-columns: 1fr 1fr; } a { color: inherit; text-decoration: none; }
}
"""
)
