const order = new Intl.Collator("en", { numeric: true });
for (const heading of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  heading.append(button);
  button.onclick = () => {
    const body = heading.closest("table").tBodies[0], at = heading.cellIndex;
    const value = row => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
    const number = text => (text !== "" && isFinite(text) ? Number(text) : NaN);
    const compare = (a, b) => number(a) - number(b) || order.compare(a, b);
    const down = heading.ariaSort === "ascending";
    const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)));
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.ariaSort = down ? "descending" : "ascending";
    body.append(...rows);
  };
}
