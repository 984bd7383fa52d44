// BERT's WordPiece in plain JavaScript. What becomes of each character (removed, replaced, a
// space, punctuation) is a table that Python wrote from the tokenizer itself: browsers and the
// tokenizer's library know different versions of Unicode.

const HANGUL = 0xac00, SYLLABLES = 11172;

/** Whether a code point is in sorted, flat [first, last, first, last, …]. */
function inside(ranges, code) {
  let low = 0, high = ranges.length / 2 - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (code < ranges[2 * middle]) high = middle - 1;
    else if (code > ranges[2 * middle + 1]) low = middle + 1;
    else return true;
  }
  return false;
}

export class WordPiece {
  constructor({ tokens, added, removed, spaced, spaces, punctuation, replaced, unknown, prefix, longest, cls, sep }) {
    Object.assign(this, { tokens, removed, spaced, spaces, punctuation, unknown, prefix, longest, cls, sep });
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.replaced = new Map(replaced);
    this.added = added;
  }

  normal(character) {
    const code = character.codePointAt(0);
    if (code >= HANGUL && code < HANGUL + SYLLABLES) return character.normalize("NFD");
    const other = this.replaced.get(character);
    if (other !== undefined) return other;
    if (inside(this.removed, code)) return "";
    return inside(this.spaced, code) ? ` ${character} ` : character;
  }

  words(text) {
    const found = [];
    let word = "";
    const end = () => { if (word) found.push(word); word = ""; };
    for (const character of Array.from(text, (c) => this.normal(c)).join("")) {
      const code = character.codePointAt(0);
      if (inside(this.spaces, code)) end();
      else if (inside(this.punctuation, code)) { end(); found.push(character); }
      else word += character;
    }
    end();
    return found;
  }

  pieces(word) {
    const letters = Array.from(word), found = [], unknown = [this.ids.get(this.unknown)];
    if (letters.length > this.longest) return unknown;
    for (let start = 0; start < letters.length;) {
      let end = letters.length, id;
      for (; end > start; end -= 1) {
        id = this.ids.get((start ? this.prefix : "") + letters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return unknown;
      found.push(id);
      start = end;
    }
    return found;
  }

  /** Token ids, [CLS] and [SEP] included. A special token in the text is that token. */
  encode(text) {
    const ids = [];
    for (let at = 0; at < text.length;) {
      const next = this.added.map((token) => [text.indexOf(token, at), token]).filter(([i]) => i >= 0)
        .reduce((a, b) => (b[0] < a[0] ? b : a), [text.length, ""]);
      for (const word of this.words(text.slice(at, next[0]))) ids.push(...this.pieces(word));
      if (next[1]) ids.push(this.ids.get(next[1]));
      at = next[0] + next[1].length;
    }
    return [this.cls, ...ids, this.sep];
  }
}
