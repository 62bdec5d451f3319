// The style sheet of report.html: colours by scheme, one for paper.
#pragma once

#include <string_view>

namespace graft {

inline constexpr std::string_view report_style = R"css(
:root { color-scheme: light dark; --ink: #1c2733; --quiet: #5d6b7a; --page: #f5f7f9; --card: #fff; --edge: #dde3ea;
  --grid: #e8edf2; --c0: #2563c9; --c1: #c2570c; --c2: #15803d; --c3: #7c3aed; --c4: #0e8a94; --c5: #b8306f; --hit: 37 99 201; --miss: 194 87 12;
  --bar: #dbe7fb; --warn: #fff4e0; --warn-edge: #e0a53a; --bad: #c81e1e; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --quiet: #98a5b3; --page: #12171d;
  --card: #1a2129; --edge: #2d3743; --grid: #29323d; --c0: #6ea4f5; --c1: #f0954f; --c2: #5cc27f; --c3: #b795f7; --c4: #4cc0ca; --c5: #ec82b3;
  --hit: 63 120 215; --miss: 199 100 35; --bar: #24406b; --warn: #38301d; --warn-edge: #8f6c26; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 20px 40px; max-width: 1080px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; }
h2 { margin: 0 0 12px; font-size: 17px; }
h3 { margin: 6px 0 8px; font-size: 14px; }
p { margin: 0 0 8px; }
table + p, div + p { margin-top: 8px; }
.quiet { color: var(--quiet); }
section, .warning, .tile { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; }
section { padding: 18px 20px; margin-top: 16px; }
.warning { background: var(--warn); border-color: var(--warn-edge); padding: 10px 16px; margin-top: 12px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.tile { flex: 1 1 130px; padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.3; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--quiet); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 16px;
  align-items: start; }
figure { margin: 0; }
figcaption { font-size: 13px; display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: center; }
.legend { color: var(--quiet); }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.key { display: inline-block; width: 18px; height: 0; border-top: 3px solid var(--color); margin-right: 6px;
  vertical-align: middle; }
.key.c1 { border-top-style: dashed; } .key.c2 { border-top-style: dotted; }
.c0 { --color: var(--c0); } .c1 { --color: var(--c1); } .c2 { --color: var(--c2); } .c3 { --color: var(--c3); }
.c4 { --color: var(--c4); } .c5 { --color: var(--c5); }
svg { display: block; width: 100%; height: auto; font-size: 11px; }
.grid { stroke: var(--grid); } .best { stroke: var(--quiet); stroke-dasharray: 2 3; }
.tick { fill: var(--quiet); } .bad { fill: var(--bad); font-size: 13px; font-weight: bold; }
.line { fill: none; stroke: var(--color); stroke-width: 2; stroke-linejoin: round; }
.line.c1 { stroke-dasharray: 7 3; } .line.c2 { stroke-dasharray: 2 3; }
.dot { fill: var(--card); stroke: var(--color); stroke-width: 2; }
.scroll { overflow-x: auto; }
.side { display: flex; flex-wrap: wrap; gap: 12px 40px; align-items: flex-start; }
.side > * { min-width: 0; } .side > :last-child { flex: 1 1 280px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th { font-weight: 600; text-align: left; }
.list, .facts { width: 100%; }
.list th, .list td, .facts th, .facts td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
.list tr:last-child td, .facts tr:last-child > * { border-bottom: 0; }
.list th { color: var(--quiet); font-size: 12px; }
.facts th { color: var(--quiet); font-weight: 400; width: 42%; }
section .pair { gap: 0 40px; }
.num { text-align: right !important; white-space: nowrap; }
.bar { background: linear-gradient(var(--bar), var(--bar)) 100% 50% / calc(var(--share) * .9) 70% no-repeat; }
.matrix { border-collapse: separate; border-spacing: 2px; font-size: 13px; }
.matrix td { min-width: 34px; height: 30px; text-align: center; border-radius: 4px; background: var(--grid); }
.matrix th { text-align: right; padding: 0 6px; white-space: nowrap; max-width: 160px; overflow: hidden;
  text-overflow: ellipsis; }
.matrix tr:first-child th { vertical-align: bottom; text-align: center; padding: 0 0 4px; }
.matrix tr:first-child .long { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 130px;
  overflow: hidden; text-overflow: ellipsis; }
.matrix .corner { background: none; color: var(--quiet); font-size: 12px; text-align: right; vertical-align: bottom;
  padding: 0 6px 4px 0; white-space: nowrap; }
.matrix.small { font-size: 9px; border-spacing: 1px; }
.matrix.small td { min-width: 17px; height: 17px; border-radius: 2px; }
.matrix .hit { background: rgb(var(--hit) / var(--shade)); } .matrix .miss { background: rgb(var(--miss) / var(--shade)); }
.matrix .strong { color: #fff; }
.parts { display: flex; height: 16px; border-radius: 5px; overflow: hidden; margin-bottom: 8px; background: var(--grid); }
.parts i { background: var(--color); min-width: 2px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: var(--color);
  margin-right: 7px; }
ul { margin: 6px 0 0; padding-left: 20px; font-size: 13px; }
footer { margin-top: 20px; color: var(--quiet); font-size: 12px; }
@media print { body { background: none; padding: 0; max-width: none; font-size: 12px; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .charts, .pair { grid-template-columns: 1fr 1fr; } .matrix td { min-width: 26px; height: 24px; }
  table { font-size: 11px; } .tile b { font-size: 18px; } section { padding: 12px 14px; margin-top: 10px; }
  .tile { flex-basis: 90px; }
  figure, tr, .tile, .matrix, .pair section { break-inside: avoid; } h2, h3 { break-after: avoid; } }
)css";

}  // namespace graft
