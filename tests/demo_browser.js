// Uses the demo page as a person does, in Chromium; prints what it found as JSON.
// node tests/demo_browser.js ADDRESS CHROMIUM FOLDER DARK_ON_LIGHT_PICTURE

const fs = require("fs"), path = require("path");
const { chromium } = require("playwright-core");

const [address, executablePath, folder, picture] = process.argv.slice(2);

async function open(browser, options) {
  const page = await browser.newPage(options);
  page.faults = [];
  page.on("console", message => { if (message.type() === "error") page.faults.push(message.text()); });
  page.on("pageerror", error => page.faults.push(String(error)));
  await page.goto(address);
  return page;
}
const classes = page => page.locator("#classes tr").evaluateAll(
  rows => rows.map(row => [row.cells[0].textContent, Number(row.cells[2].textContent)]));
const shoot = (page, name) => page.screenshot({ path: path.join(folder, name), fullPage: true });

async function draw(page) {
  const box = await page.locator("#paper").boundingBox();
  await page.mouse.move(box.x + box.width * 0.3, box.y + box.height * 0.3);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.7, { steps: 5 });
  await page.mouse.up();
  await page.locator("#classes tr").first().waitFor();
}

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const found = {};

  const page = await open(browser, { viewport: { width: 1100, height: 900 } });
  found.explained = await page.locator("p").first().textContent();
  await draw(page);
  found.drawn = await classes(page);
  found.layers = await page.locator("#layers figure").count();
  const options = await page.locator("#layer option").allTextContents();
  await page.selectOption("#layer", options[2]);
  found.chosen = [options[2], await page.locator("#layers figcaption").allTextContents()];
  await page.selectOption("#kind", "grad_cam");
  await page.locator("#why img").waitFor();
  found.reason = await page.locator("#why figcaption").textContent();
  await page.setInputFiles("#file", picture);
  await page.waitForFunction(() => document.getElementById("note").textContent);
  found.note = await page.locator("#note").textContent();
  found.uploaded = await classes(page);
  await page.locator("#why img").waitFor();
  await page.selectOption("#layer", "");
  await shoot(page, "desktop.png");
  // The uploaded picture is light: a stroke on it must be dark.
  const before = await page.evaluate(() => document.getElementById("paper").getContext("2d").getImageData(28, 140, 1, 1).data[0]);
  const box = await page.locator("#paper").boundingBox();
  await page.mouse.click(box.x + 28, box.y + 140);
  found.pen = [before, await page.evaluate(() => document.getElementById("paper").getContext("2d").getImageData(28, 140, 1, 1).data[0])];
  await page.setInputFiles("#file", { name: "x.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await page.waitForFunction(() => document.getElementById("error").textContent);
  found.error = await page.locator("#error").textContent();
  found.faults = page.faults.filter(fault => !fault.includes("400"));

  const keys = await open(browser, { viewport: { width: 1100, height: 900 }, colorScheme: "dark" });
  await keys.keyboard.press("Tab");
  found.focused = await keys.evaluate(() => document.activeElement.id);
  await keys.keyboard.press(" ");
  for (let i = 0; i < 9; ++i) await keys.keyboard.press("ArrowDown");
  await keys.keyboard.press(" ");
  await keys.locator("#classes tr").first().waitFor();
  found.typed = await classes(keys);
  found.reached = [];
  for (let i = 0; i < 8; ++i) {
    await keys.keyboard.press("Tab");
    found.reached.push(await keys.evaluate(() => document.activeElement.id));
  }
  found.dark = await keys.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await shoot(keys, "dark.png");
  found.faults.push(...keys.faults);

  const phone = await open(browser, { viewport: { width: 375, height: 700 }, hasTouch: true, isMobile: true });
  await draw(phone);
  await phone.selectOption("#kind", "occlusion");
  await phone.locator("#why img").waitFor();
  found.wider = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  found.touched = await classes(phone);
  await shoot(phone, "phone.png");
  found.faults.push(...phone.faults);

  await browser.close();
  fs.writeSync(1, JSON.stringify(found));
})().catch(error => { console.error(String(error)); process.exit(1); });
