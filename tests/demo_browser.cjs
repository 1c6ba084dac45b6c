// Plays a scene with the demo page in a real browser and prints what was seen, as JSON:
//
//   node tests/demo_browser.cjs http://127.0.0.1:5000 draw [CHROMIUM] [SCREENSHOT.png]
//
// It needs playwright-core, looked for as Node does: in node_modules here and above, and in NODE_PATH.

const { chromium } = require("playwright-core");

const VIEWS = { desktop: { width: 1100, height: 840 }, phone: { width: 375, height: 720 } };

// A dark trouser on light, three times as high as wide, as a file.
async function makePicture(page) {
  const url = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 100, height: 300 });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, 100, 300);
    pen.fillStyle = "#333";
    pen.fillRect(20, 20, 60, 60);
    pen.fillRect(20, 80, 24, 200);
    pen.fillRect(56, 80, 24, 200);
    return canvas.toDataURL("image/png");
  });
  return Buffer.from(url.split(",")[1], "base64");
}

async function upload(page, name, buffer) {
  await page.setInputFiles("#file", { name, mimeType: "image/png", buffer });
}

async function draw(page, lines, move = "mouse") {
  const box = await page.locator("#strokes").boundingBox();
  for (const line of lines) {
    const points = line.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]);
    await page.mouse.move(...points[0]);
    await page.mouse.down();
    for (const point of points.slice(1)) await page.mouse.move(...point, { steps: 5 });
    await page.mouse.up();
  }
}

async function settle(page) {
  await page.waitForFunction(() => {
    const said = document.getElementById("guess").textContent;
    const failed = document.getElementById("error").textContent;
    return failed || !/^(Nothing|Looking)/.test(said);
  });
  await page.waitForTimeout(200);  // the maps, and pictures under the pen
}

// What a user would see.
async function look(page) {
  return page.evaluate(() => {
    const text = id => document.getElementById(id).checkVisibility() ? document.getElementById(id).innerText : "";
    const shown = id => document.getElementById(id).checkVisibility();
    const options = id => [...document.getElementById(id).options].map(option => option.text);
    const tile = document.querySelector("#maps canvas");
    return {
      guess: text("guess"), done: text("done"), warning: text("warning"), error: text("error"),
      rows: [...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.innerText)),
      keys: text("keys"), kinds: options("kind"), layers: options("layer"),
      reason: shown("reason") && document.getElementById("reason").naturalWidth,
      layer: document.getElementById("layer").value, count: text("count"), reading: text("reading"),
      scale: [text("low"), text("high")], legend: document.getElementById("legend").naturalWidth,
      maps: document.querySelectorAll("#maps canvas").length,
      tile: tile && [tile.width, tile.height],
      colors: tile && new Set(tile.getContext("2d").getImageData(0, 0, tile.width, tile.height).data).size,
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      ground: getComputedStyle(document.body).backgroundColor,
    };
  });
}

// How far the pen's color is from what is under it, 0 to 255, where a stroke was drawn.
async function contrast(page, x, y) {
  return page.evaluate(([x, y]) => {
    const [under, over] = ["paper", "strokes"].map(id => {
      const canvas = document.getElementById(id);
      const place = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
      return canvas.getContext("2d").getImageData(...place, 1, 1).data;
    });
    return over[3] ? Math.abs(over[0] - under[0]) : 0;
  }, [x, y]);
}

const SCENES = {
  async draw(page) {
    await draw(page, [[[0.3, 0.2], [0.7, 0.2]], [[0.5, 0.2], [0.5, 0.8]]]);
    await settle(page);
    const first = { ...(await look(page)), contrast: await contrast(page, 0.5, 0.5) };
    const other = first.layers[3];
    await page.selectOption("#layer", other);
    await page.waitForTimeout(200);
    const second = await look(page);
    await draw(page, [[[0.2, 0.9], [0.8, 0.9]]]);
    await settle(page);
    const third = await look(page);
    await page.click("#clear");
    return { first, second, third, cleared: await look(page) };
  },

  async upload(page) {
    await upload(page, "trouser.png", await makePicture(page));
    await settle(page);
    const first = await look(page);
    await page.click("summary");
    await page.selectOption("#invert", "0");
    await page.waitForTimeout(100);
    await settle(page);
    const kept = await look(page);
    await page.selectOption("#invert", "auto");
    await page.selectOption("#fit", "stretch");
    await page.waitForTimeout(100);
    await settle(page);
    const stretched = await look(page);
    await draw(page, [[[0.05, 0.5], [0.2, 0.5]]]);
    await settle(page);
    return { first, kept, stretched, drawn: { ...(await look(page)), contrast: await contrast(page, 0.1, 0.5) } };
  },

  async refused(page) {
    await upload(page, "text.png", Buffer.from("no picture"));
    await settle(page);
    const text = await look(page);
    await upload(page, "large.png", Buffer.alloc(8000001));
    await page.waitForTimeout(300);
    const large = await look(page);
    await page.route("**/see?*", route => route.fulfill({ body: "{broken" }));
    await upload(page, "picture.png", await makePicture(page));
    await page.waitForTimeout(500);
    const broken = await look(page);
    await page.route("**/see?*", route => route.abort());
    await upload(page, "picture.png", await makePicture(page));
    await page.waitForTimeout(500);
    return { text, large, broken, gone: await look(page) };
  },

  // Nothing but Tab, Enter, Space and arrows.
  async keyboard(page) {
    await page.keyboard.press("Tab");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press(" ");
    for (let i = 0; i < 12; ++i) await page.keyboard.press("ArrowDown");
    await page.keyboard.press(" ");
    await settle(page);
    const drawn = { ...(await look(page)), contrast: await contrast(page, 0.5, 0.6) };
    await page.keyboard.press("Delete");
    const cleared = await look(page);
    const visited = [];
    const visit = async () => {
      await page.keyboard.press("Tab");
      visited.push(await page.evaluate(() => {
        const one = document.activeElement, label = one.labels?.[0] || one;
        const ring = getComputedStyle(one.closest(".file") || one);
        return {
          what: one.id || one.className || one.tagName,
          name: one.ariaLabel || label.innerText.trim() || one.title,
          ring: ring.outlineStyle !== "none" && parseFloat(ring.outlineWidth) >= 2,
        };
      }));
      return visited.at(-1);
    };
    while ((await visit()).what !== "example" && visited.length < 20);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await settle(page);
    const first = await look(page);
    while ((await visit()).what !== "SUMMARY" && visited.length < 40);
    await page.keyboard.press("Enter");
    while ((await visit()).what !== "layer" && visited.length < 50);
    await page.keyboard.press("ArrowDown");
    await page.waitForTimeout(300);
    return { drawn, cleared, visited, first, second: await look(page) };
  },

  async phone(page) {
    const before = (await look(page)).overflow;
    await page.locator("#strokes").scrollIntoViewIfNeeded();
    const box = await page.locator("#strokes").boundingBox();
    const session = await page.context().newCDPSession(page);  // a finger
    const at = (x, y) => [{ x: box.x + x * box.width, y: box.y + y * box.height }];
    const touch = (type, touchPoints) => session.send("Input.dispatchTouchEvent", { type, touchPoints });
    await touch("touchStart", at(0.5, 0.2));
    for (let y = 0.25; y < 0.8; y += 0.05) await touch("touchMove", at(0.5, y));
    await touch("touchEnd", []);
    await settle(page);
    const scrolled = await page.evaluate(() => scrollY);
    const moved = (await page.locator("#strokes").boundingBox()).y !== box.y;
    const drawn = { ...(await look(page)), before, moved, scrolled, contrast: await contrast(page, 0.5, 0.7) };
    const small = await page.evaluate(() => [...document.querySelectorAll("button, select, .file")]
      .filter(one => one.checkVisibility())
      .filter(one => Math.min(one.offsetWidth, one.offsetHeight) < 40).map(one => one.outerHTML));
    const inSight = await page.evaluate(() => {
      const box = document.getElementById("guess").getBoundingClientRect();
      return 0 <= box.top && box.bottom <= innerHeight + 1;
    });
    return { drawn, small, inSight };
  },

  // What speaks for a class.
  async explain(page) {
    await draw(page, [[[0.3, 0.2], [0.7, 0.8]]]);
    await settle(page);
    const seen = { maps: await look(page) };
    for (const kind of ["grad_cam", "saliency", "occlusion"]) {
      await page.selectOption("#kind", kind);
      await page.locator("#reason").waitFor();
      seen[kind] = await look(page);
    }
    await page.selectOption("#label", "3");
    await page.waitForTimeout(100);
    await page.locator("#reason").waitFor();
    seen.other = await look(page);
    await page.selectOption("#kind", "maps");
    await page.waitForTimeout(200);
    return { ...seen, again: await look(page) };
  },

  // A trouser, drawn with a thick pen.
  async showcase(page) {
    await page.fill("#width", "42");
    await draw(page, [
      [[0.42, 0.08], [0.58, 0.08], [0.58, 0.16], [0.42, 0.16], [0.42, 0.22], [0.58, 0.22]],
      [[0.42, 0.08], [0.4, 0.5], [0.39, 0.93]], [[0.58, 0.08], [0.6, 0.5], [0.61, 0.93]],
    ]);
    await settle(page);
    return look(page);
  },
};

async function main([address, scene, executablePath = "/usr/bin/chromium", screenshot]) {
  const [name, theme] = scene.split(":");
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    const view = name === "phone" ? "phone" : "desktop";
    const page = await browser.newPage({
      viewport: VIEWS[view], hasTouch: view === "phone", isMobile: view === "phone", colorScheme: theme || "light",
    });
    const complaints = [];
    page.on("console", message => {  // but that `look` reads pixels, which Chromium warns of
      if (["error", "warning"].includes(message.type()) && !/willReadFrequently/.test(message.text()))
        complaints.push(message.text());
    });
    page.on("pageerror", error => complaints.push(String(error)));
    await page.goto(address);
    const seen = await SCENES[name](page);
    if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
    console.log(JSON.stringify({ ...seen, complaints }));
  } finally {
    await browser.close();
  }
}

main(process.argv.slice(2)).catch(error => {
  console.error(String(error));
  process.exitCode = 1;
});
