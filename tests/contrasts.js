() => {
  // WCAG 2.2, relative luminance and contrast ratio
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const linear = (value) => (value <= 0.04045 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (color) => {
    const [red, green, blue] = channels(color).map(linear);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((channels(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const seen = [...document.body.querySelectorAll("*")].filter((element) => hasText(element) && element.checkVisibility());
  return seen.map((element) => {
    const { color, fill } = getComputedStyle(element);
    const ink = luminance(element instanceof SVGElement ? fill : color), paper = luminance(behind(element));
    return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), element.textContent.trim()];
  });
}
