// Drives the built site in Firefox: puppeteer-core speaks WebDriver BiDi with it directly.
//   node firefox.mjs ADDRESS TEXTS.json OUT.json FIREFOX PICTURE.png
import { readFileSync, writeFileSync } from "node:fs";
import puppeteer from "puppeteer-core";

const [address, texts, out, firefox, picture] = process.argv.slice(2);
const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: firefox,
  headless: true,
  defaultViewport: null, // Firefox ESR does not know all that setViewport sends
  args: ["--width=1280", "--height=1000"],
});
const page = await browser.newPage();
const errors = [];
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
page.on("pageerror", (error) => errors.push(String(error)));
await page.goto(address);
const seconds = await page.evaluate(async () => {
  await window.tinybertLite.ready;
  return performance.now() / 1000;
});
const found = await page.evaluate(async (given) => {
  const answers = [];
  for (const text of given) {
    const start = performance.now();
    const answer = await window.tinybertLite.predict(text);
    answers.push({ ...answer, milliseconds: performance.now() - start });
  }
  return answers;
}, JSON.parse(readFileSync(texts, "utf-8")));
await page.screenshot({ path: picture });
const version = await browser.version();
writeFileSync(out, JSON.stringify({ version, seconds, found, errors }));
await browser.close();
