"use strict";
(() => {
  // Sorting: a click on a heading sorts by it, a second click turns the order. Cells without a value stay last.
  const key = (row, index) => {
    const cell = row.cells[index];
    if (cell.dataset.key === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.key === "" ? null : Number(cell.dataset.key);
  };
  const compare = (a, b) =>
    typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : a - b;

  const sort = (table, heading) => {
    const index = heading.cellIndex;
    const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, index), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = heading.title ? `${heading.title}; sort by it` : "Sort";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  // Tooltips: every mark of a drawing carries its words in aria-label.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (event) => {
    const mark = event.target.closest ? event.target.closest("svg [aria-label]") : null;
    if (!mark) return hide();
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth - box.width - 8;
    const above = event.clientY - box.height - 14;
    tip.style.left = `${Math.max(8, Math.min(event.clientX - box.width / 2, room))}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 18}px`;
  };
  for (const chart of document.querySelectorAll(".chart")) {
    chart.addEventListener("pointerover", show);
    chart.addEventListener("pointerleave", hide);
  }
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
