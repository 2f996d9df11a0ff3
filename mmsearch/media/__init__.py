"""Finding and decoding files.

kinds       the endings of the files that can be indexed, and the kind of each
walk        finds the files below a folder
open_media  opens a file, or its container of sound and pictures
image       photos, upright and in sRGB: `exif` reads their EXIF, `colour` converts by the profile,
            `image_repair` rewrites those with harmless faults
audio       sounds in windows of five seconds; `sound_files` says where in a file they lie
video       a picture for each shot, which `shots` detects
text        text files, and passages of texts
pdf         pages of PDFs
ocr         text in pictures
speech      transcripts of speech
thumbnails  small pictures of photos, videos, pages and covers
captions    files of captions; `tables` reads any table about files that a user wrote
file_state  whether a file has changed

All readers take a path, or bytes, and raise UnreadableFile with the reason.
"""
