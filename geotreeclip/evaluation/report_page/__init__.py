"""One report from any number of runs: tables, plots, Markdown and a page that needs nothing but itself."""
