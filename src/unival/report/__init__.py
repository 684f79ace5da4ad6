"""The report of a study, made from the files that the other stages wrote.

study (reads them) -> summary (for programs), claims, charts, gallery -> content (what is said) -> page
(the document, as one HTML file and as Markdown).
"""
