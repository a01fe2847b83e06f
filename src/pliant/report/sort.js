const collator = new Intl.Collator("en", { numeric: true });
const value = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
const compare = (a, b) => (isFinite(a) && isFinite(b) ? a - b : collator.compare(a, b));
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies], before = bodies.map(body => [...body.rows]);
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.onclick = () => { // one way, the other way, as it was
      const ways = heading.dataset.first ? ["descending", "ascending"] : ["ascending", "descending"];
      const way = ways[ways.indexOf(heading.ariaSort) + 1], at = heading.cellIndex;
      for (const each of heading.parentNode.cells) each.removeAttribute("aria-sort");
      for (const row of table.querySelectorAll(".group")) row.hidden = way !== undefined;
      bodies.forEach((body, place) => body.append(...before[place]));
      if (!way) return;
      heading.ariaSort = way;
      const rows = before.flat().filter(row => !row.matches(".group")), empty = row => value(row, at) === "";
      const turn = way === "ascending" ? 1 : -1;
      rows.sort((a, b) => empty(a) - empty(b) || turn * compare(value(a, at), value(b, at)));
      bodies[0].append(...rows);
    };
  }
}
