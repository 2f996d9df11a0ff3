"""Files, found and decoded.

kinds      the endings of the files that can be indexed, and what these files are
walk       the files below a folder
files      opens one, as a file or as a container of sound and pictures
image      photos, upright and in RGB; their EXIF is read by `exif`
audio      sounds in windows of five seconds
video      a picture for each shot, which `shots` detects
text       text files, and texts cut into passages
pdf, ocr, speech    pages, writing in pictures, what is said
captions   captions files; `tables` is what all tables of file names have in common
file_state whether a file is as it was

Readers of files take a path or bytes, and raise UnreadableFile with the reason.
"""
