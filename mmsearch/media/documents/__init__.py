"""Documents as texts with headings: Word, PowerPoint, OpenDocument, HTML, EPUB, RTF, mail.

reader      their passages; it starts the child process in which they are parsed, and bounds it
process     that child process: it parses a document by its format
office      office documents, EPUB and RTF; `html_page` and `mail` the others
blocks      the headings and paragraphs that each of these returns
"""
