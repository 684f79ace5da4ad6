"""Write `.dvc/plots.html`, the page of `dvc plots`: DVC's own loads Vega from the network, in one column."""

from pathlib import Path

import vl_convert

STYLE = "body {display: grid; grid-template-columns: repeat(2, max-content)}"
PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<title>DVC plots</title>
<style>{style}</style>
<script>{vega}</script>
</head>
<body>{plot_divs}</body>
</html>
"""

if __name__ == "__main__":
    vega = vl_convert.javascript_bundle(vl_version="5.21")
    page = PAGE.replace("{style}", STYLE).replace("{vega}", vega)
    (Path(__file__).parents[1] / "plots.html").write_text(page, encoding="utf-8")
