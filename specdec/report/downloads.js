"use strict";
// Charts as files: what the filter shows, in light colours, with a legend of their own. The page makes them itself.

const PNG_SCALE = 3;
const FORMATS = {
  svg: async (view) => new Blob([await view.toSVG()], { type: "image/svg+xml" }),
  png: async (view) => new Blob([bytesOf(await view.toImageURL("png", PNG_SCALE))], { type: "image/png" }),
  pdf: async (view) => new Blob([await pdfOf(view)], { type: "application/pdf" }),
};

async function download(figure, format) {
  const key = figure.dataset.figure;
  const records = shownRecords(figure, visibleRuns());
  const file = format === "csv" ? new Blob([csvOf(data.figures[key], records)], { type: "text/csv" }) : await drawnFile(key, records, format);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${data.name}-${key}.${format}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

async function drawnFile(key, records, format) {
  const { view } = await vegaEmbed(document.createElement("div"), standalone(data.figures[key], records), {
    ast: true, renderer: "none", actions: false, config: { ...coloured(data.config), font: data.paper.font, background: "white" },
  });
  const file = await FORMATS[format](view);
  view.finalize();
  return file;
}

// As `specdec plot` makes it: colours in place of variables, legends in place of the page's.
function standalone({ spec, titled }, records) {
  const methods = [...new Set(records.map((record) => record.method))];
  const legend = (part) => ({ ...data.paper.legend, ...(part.field === "method" ? { values: methods } : {}) });
  const whole = coloured(spec, (_, part) => (part && part.legend === null && !titled ? { ...part, legend: legend(part) } : part));
  return { ...sized(whole, data.paper.width), datasets: { ...whole.datasets, records } };
}

function coloured(part, reviver) {
  return JSON.parse(JSON.stringify(part).replace(/var\((--[\w-]+)\)/g, (_, name) => data.paper.colors[name]), reviver);
}

async function pdfOf(view) {
  const size = document.createElement("div");
  size.innerHTML = await view.toSVG();
  const drawing = size.firstElementChild;
  const context = new PdfContext(Number(drawing.getAttribute("width")), Number(drawing.getAttribute("height")));
  await view.toCanvas(1, { externalContext: context });
  return context.file();
}

function bytesOf(url) { // of a data URL, which the page's policy forbids to fetch
  return Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
}

function csvOf(figure, records) {
  const axes = [...new Set(data.runs.flatMap((run) => Object.keys(run.axes)))];
  const columns = Object.keys(figure.columns).filter((name) => !axes.includes(name));
  const runs = new Map(data.runs.map((run) => [run.key, run]));
  const lines = records.map((record) => {
    const run = runs.get(record.run);
    return [run.name, record.method, ...axes.map((axis) => run.axes[axis]), ...columns.map((name) => record[name])];
  });
  return [["run", "method", ...axes, ...columns], ...lines].map((line) => `${line.map(cellOf).join(",")}\n`).join("");
}

function cellOf(value) {
  const text = String(value ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

document.addEventListener("click", (event) => {
  const { download: format } = event.target.dataset ?? {};
  if (format) download(event.target.closest("figure"), format);
});
