// Search in the text of all notebooks, without a server: every word of the query must be there.
const LIMIT = 20;
const query = document.getElementById("query");
const results = document.getElementById("results");
const found = document.getElementById("found");

function score(section, words) {
  const title = `${section.notebook} ${section.title}`.toLowerCase();
  const text = section.text.toLowerCase();
  let sum = 0;
  for (const word of words) {
    const times = text.split(word).length - 1 + (title.includes(word) ? 20 : 0);
    if (!times) return 0;
    sum += times;
  }
  return sum;
}

function excerpt(text, word) {
  const at = Math.max(0, text.toLowerCase().indexOf(word) - 60);
  return `${at ? "…" : ""}${text.slice(at, at + 160)}…`;
}

function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter((word) => word.length > 1);
  const ranked = !words.length ? [] : window.COURSE
    .map((section) => [score(section, words), section])
    .filter(([points]) => points > 0)
    .sort((a, b) => b[0] - a[0]);
  results.replaceChildren(...ranked.slice(0, LIMIT).map(([, section]) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `${section.page}#${section.id}`;
    link.textContent = section.title === section.notebook
      ? section.title : `${section.notebook}: ${section.title}`;
    const line = document.createElement("p");
    line.textContent = excerpt(section.text, words[0]);
    item.append(link, line);
    return item;
  }));
  const plural = ranked.length === 1 ? "section" : "sections";
  found.textContent = words.length ? `${ranked.length} ${plural} found` : "";
}

query.addEventListener("input", search);
