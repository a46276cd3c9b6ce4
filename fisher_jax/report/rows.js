// Finds and sorts the rows of the page; without it they stand in order of choice.
"use strict";
{
  const list = document.getElementById("rows");
  const rows = Array.from(list.children);
  const textOf = (row) => row.querySelector("p.text") ?? row.querySelector("summary span");
  const texts = rows.map((row) => textOf(row).textContent.toLowerCase());
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const buttons = Array.from(document.querySelectorAll("#sort button"));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word);
    let count = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      count += row.hidden ? 0 : 1;
    });
    found.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };

  const sort = (button) => {
    const column = buttons.indexOf(button);
    const rises = button.dataset.order !== "rises";
    for (const other of buttons) delete other.dataset.order;
    button.dataset.order = rises ? "rises" : "falls";
    const keyed = rows.map((row, rank) => {
      const text = row.firstElementChild.children[column].textContent;
      const number = parseFloat(text.replaceAll(",", ""));
      return { row, rank, key: Number.isNaN(number) ? -Infinity : number };
    });
    const sign = rises ? 1 : -1;
    keyed.sort((a, b) => (a.key === b.key ? a.rank - b.rank : sign * (a.key < b.key ? -1 : 1)));
    const sorted = document.createDocumentFragment();
    for (const { row } of keyed) sorted.append(row);
    list.append(sorted);
  };

  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => sort(button));
  }
  search.addEventListener("input", filter);
  document.getElementById("tools").hidden = false;
  filter();
}
