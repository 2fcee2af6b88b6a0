"""Self-contained HTML pages: one file that loads nothing, for screen, phone, dark mode and
paper. Every text is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence

from vqlab.text import visible

STYLE = """
:root{color-scheme:light dark;--ink:#1f2933;--muted:#5b6774;--line:#d5dbe1;--paper:#fff;
--best:#fff1dd;--link:#1f57a0}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--muted:#9aa6b2;--line:#3a444e;
--paper:#14181c;--best:#4a3413;--link:#8ab8f0}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
margin:0 auto;padding:1rem;max-width:1400px}
h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2rem 0 .3rem}
h3{font-size:.95rem;font-weight:600;color:var(--muted);margin:.8rem 0 0;overflow-wrap:anywhere}
p{margin:.3rem 0}.muted{color:var(--muted)}a{color:var(--link)}nav a{margin-right:1rem;
display:inline-block}
img{max-width:100%;height:auto}figure{margin:.8rem 0}figcaption{font-size:14px}
.wide,.grid>div{overflow-x:auto}.grid>div{min-width:0}
.grid{display:grid;gap:0 1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
.pictures{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
table{border-collapse:collapse;font-size:14px;white-space:nowrap}
th{text-align:left;border-bottom:2px solid var(--line);padding:.25rem .8rem .25rem 0}
td{border-bottom:1px solid var(--line);padding:.2rem .8rem .2rem 0;
font-variant-numeric:tabular-nums}
@page{size:A4;margin:14mm 14mm 18mm;@bottom-right{content:counter(page) " / " counter(pages);
font:9px system-ui,sans-serif;color:#5b6774}}
@media print{:root{color-scheme:light}nav{display:none}a{color:inherit}
body{font-size:12px;max-width:none;padding:0}h1{font-size:18px}h2{font-size:15px;margin-top:1.2rem}
h3{font-size:12px}h1,h2,h3,h2+p,h3+p{break-after:avoid}figure,tr,pre,.image{break-inside:avoid}
figcaption{font-size:10px}.wide,.grid>div{overflow:visible}.pictures{grid-template-columns:1fr 1fr}
table{font-size:10.5px;white-space:normal;overflow-wrap:anywhere}
td:first-child{overflow-wrap:break-word}}
"""
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
SORT = """
document.querySelectorAll("table.sortable").forEach(table=>{
 const body=table.tBodies[0],heads=[...table.tHead.rows[0].cells];
 const value=(row,column)=>row.cells[column].dataset.value??row.cells[column].textContent;
 const sort=column=>{
  const up=heads[column].getAttribute("aria-sort")!=="ascending";
  heads.forEach(head=>head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort",up?"ascending":"descending");
  [...body.rows].sort((first,second)=>{
   const x=value(first,column),y=value(second,column),m=parseFloat(x),n=parseFloat(y);
   if(x===""||y==="")return (x==="")-(y==="");
   const order=isNaN(m)||isNaN(n)?x.localeCompare(y):m-n;
   return up?order:-order}).forEach(row=>body.append(row))};
 heads.forEach((head,column)=>{head.tabIndex=0;head.title="sort";
  head.addEventListener("click",()=>sort(column));
  head.addEventListener("keydown",event=>{
   if(event.key==="Enter"||event.key===" "){event.preventDefault();sort(column)}})})});
"""
"""Script: a click on a heading sorts a table of the class `sortable` by the attribute `data-value`
of its cells, else by their text; empty values stay last."""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a page; body and style: markup. Browsers refuse requests from it, and run no script
    but `script`."""
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body += f"\n<script>{script}</script>"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<style>{STYLE}{style}</style></head>\n<body>{body}</body></html>\n"
    )


def escape(text: object) -> str:
    """Return a text as markup: visible characters only, none of them special."""
    return html.escape(visible(str(text)))


def paragraph(text: str, style: str = "") -> str:
    """Return a paragraph with the class `style`; empty for an empty text."""
    return f'<p class="{style}">{html.escape(text)}</p>' if text else ""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    style: str = "",
    foot: Sequence[Sequence[str]] = (),
) -> str:
    """Return a table that scrolls if it is too wide. head: texts; rows and foot: cells as markup,
    or `Cell`."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    end = f"<tfoot>\n{_table_rows(head, foot)}\n</tfoot>" if foot else ""
    return (
        f'<div class="wide"><table class="{style}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{_table_rows(head, rows)}\n</tbody>{end}</table></div>"
    )


def _table_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"<tr>{''.join(_cell(name, cell) for name, cell in zip(head, row, strict=True))}</tr>"
        for row in rows
    )


class Cell(str):
    """A cell as markup with the value that a sortable table sorts by, None: none."""

    value: float | None

    def __new__(cls, markup: str, value: float | None) -> Cell:
        cell = super().__new__(cls, markup)
        cell.value = value
        return cell


def _cell(head: str, cell: str) -> str:
    value = ""
    if isinstance(cell, Cell):
        value = f' data-value="{"" if cell.value is None else f"{cell.value:.9g}"}"'
    return f'<td data-head="{escape(head)}"{value}>{cell}</td>'


def picture(title: str, data: bytes, kind: str = "png") -> str:
    """Return an embedded picture with its caption. kind: png or jpeg."""
    encoded = base64.b64encode(data).decode()
    text = escape(title)
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def definitions(pairs: Mapping[str, str]) -> str:
    """Return a list of names and values (markup); empty values are omitted."""
    items = [f"<dt>{escape(k)}</dt><dd>{value}</dd>" for k, value in pairs.items() if value]
    return f"<dl>{''.join(items)}</dl>"
