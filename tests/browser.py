"""Opens HTML files in headless Chromium, at the widths of a phone and of a screen, in the light and the dark theme."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (360, 1280)
THEMES = ("light", "dark")
CONTRAST = 4.5  # of text, as the Web Content Accessibility Guidelines (level AA) demand

# What a reader would notice. An element that scrolls does not make the page wider.
MEASURE = """() => {
  const rgb = color => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const background = element => {
    for (; element; element = element.parentElement) {
      const color = rgb(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const root = document.documentElement, images = [...document.images];
  return {
    viewport: document.querySelector("meta[name=viewport]")?.content ?? "",
    excess: root.scrollWidth - root.clientWidth,
    undescribed: images.filter(image => !image.hasAttribute("alt")).map(image => image.outerHTML.slice(0, 100)),
    broken: images.filter(image => image.complete && !image.naturalWidth).map(image => image.outerHTML.slice(0, 100)),
    text: rgb(getComputedStyle(document.body).color),
    background: background(document.body),
  };
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser for any number of pages."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # which root cannot have
        try:
            yield browser
        finally:
            browser.close()


def problems(browser: Any, *paths: Path) -> list[str]:
    """What is wrong with the pages, at every width and in every theme, without a network."""
    found = []
    for theme in THEMES:
        context = browser.new_context(color_scheme=theme, offline=True)
        page = context.new_page()
        heard: list[str] = []  # B023: the handlers belong to this page, and are not called after its turn of the loop
        page.on("console", lambda m: m.type == "error" and heard.append(f"console: {m.text}"))  # noqa: B023
        page.on("pageerror", lambda error: heard.append(f"script: {error}"))  # noqa: B023
        page.on("requestfailed", lambda request: heard.append(f"request: {request.url}"))  # noqa: B023
        for path in paths:
            heard.clear()
            page.goto(path.absolute().as_uri())
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                where = f"{path.name}, {width} pixels, {theme}"
                found += [f"{where}: {problem}" for problem in (*heard, *seen(page.evaluate(MEASURE), theme))]
                heard.clear()
        context.close()
    return found


def seen(page: dict[str, Any], theme: str) -> Iterator[str]:
    if "width=device-width" not in page["viewport"]:
        yield "a phone would show the page as wide as on a screen"
    if page["excess"] > 0:
        yield f"{page['excess']} pixels wider than the window"
    yield from (f"image without alt: {image}" for image in page["undescribed"])
    yield from (f"image that cannot be shown: {image}" for image in page["broken"])
    text, background = luminance(page["text"]), luminance(page["background"])
    if (background < text) != (theme == "dark"):
        yield f"a background of luminance {background:.2f} for text of luminance {text:.2f}"
    if contrast(text, background) < CONTRAST:
        yield f"text of contrast {contrast(text, background):.1f}"


def luminance(color: list[int]) -> float:
    """The relative luminance of an sRGB color, as the Web Content Accessibility Guidelines define it."""
    linear = [(c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 0.04045 * 255 else c / 255 / 12.92 for c in color[:3]]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
