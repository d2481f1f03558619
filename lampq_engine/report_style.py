"""How a report looks on a screen and on paper, and the little script that draws its figures and saves them."""

# Nothing may be fetched from anywhere: the browser itself keeps the report self-contained.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --text: #16202C; --back: #FFFFFF; --line: #D5DCE5; --soft: #F3F6FA; --key: #14508F; }
@media (prefers-color-scheme: dark) {
  :root { --text: #E8EDF4; --back: #10161F; --line: #334155; --soft: #1A2330; --key: #7DB4F0; }
}
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 2rem; margin: 0; } h2 { font-size: 1.35rem; margin: 2rem 0 0.5rem; }
header p { margin: 0; opacity: 0.75; } .lead { font-size: 1.1rem; margin: 0.6rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem; }
.grid > p, .grid > .wide, .wide { grid-column: 1 / -1; margin: 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem; min-width: 0; }
figcaption, .note { font-size: 0.85rem; opacity: 0.85; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { background: var(--soft); }
details { border: 1px solid var(--line); border-radius: 8px; padding: 0.4rem 0.8rem; }
summary { cursor: pointer; } pre { overflow-x: auto; font-size: 0.8rem; }
button { font: inherit; font-size: 0.8rem; color: var(--key); background: none; border: 1px solid var(--line);
  border-radius: 6px; padding: 0.1rem 0.5rem; cursor: pointer; }
button:focus-visible, summary:focus-visible { outline: 2px solid var(--key); outline-offset: 2px; }
@media print {
  :root { --text: #000; --back: #FFF; --line: #BBB; --soft: #F3F3F3; }
  @page { margin: 14mm; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  .tools, .modebar { display: none !important; }
  .grid { display: block; } figure, tr, .lead { break-inside: avoid; } figure { margin-bottom: 4mm; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; }
}
"""

SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const look = (paper) => {
  const night = dark.matches && !paper, ink = night ? "#E8EDF4" : "#16202C", line = night ? "#334155" : "#D5DCE5";
  const axes = { gridcolor: line, linecolor: line, zerolinecolor: line };
  return { ink, axes };
};
const styled = (layout, paper) => {
  const { ink, axes } = look(paper), out = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  out.font = { ...layout.font, color: ink, family: "system-ui, sans-serif" };
  for (const name of Object.keys(out)) if (/^[xy]axis/.test(name)) out[name] = { ...axes, ...out[name] };
  return out;
};
const all = [...document.querySelectorAll("figure")].map((figure) => {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  return { figure, plot: figure.querySelector(".plot"), data, layout };
});
const draw = (paper) => Promise.all(all.map(({ plot, data, layout }) => Plotly.react(
  plot, data, { ...styled(layout, paper), autosize: !paper, width: paper ? 660 : undefined },
  { responsive: true, displaylogo: false, displayModeBar: false })));
draw(false).then(() => { document.body.dataset.drawn = all.length; });
dark.addEventListener("change", () => draw(false));
addEventListener("beforeprint", () => draw(true));
addEventListener("afterprint", () => draw(false));
const save = (url, name) => {
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
};
document.addEventListener("click", async ({ target }) => {
  const { save: format, csv, name } = target.dataset;
  if (csv !== undefined) save(URL.createObjectURL(new Blob([csv], { type: "text/csv" })), `${name}.csv`);
  if (format === undefined) return;
  const one = all.find(({ figure }) => figure.contains(target));
  const { width, height } = one.plot.getBoundingClientRect();
  const layout = { ...styled(one.layout, true), paper_bgcolor: "#FFFFFF" };
  const picture = await Plotly.toImage({ data: one.data, layout }, { format, width, height, scale: 2 });
  save(picture, `${one.figure.id}.${format}`);
});
"""
