"""Finding and decoding files.

kinds       the endings of the files that can be indexed, and the kind of each
walk        finds the files below a folder; `companions` says which belong to another
open_media  opens a file, or its container of sound and pictures
image       photos, upright and in sRGB: `exif` reads their EXIF, `colour` converts by the profile,
            `image_repair` rewrites those with harmless faults, `raw` and `jpeg_xl` read theirs
facts       when, where and how a photo was taken, by its metadata, its sidecars and its name;
            `photo_metadata` reads EXIF, IPTC and XMP
audio       sounds in windows of five seconds; `sound_files` says where in a file they lie
video       a picture for each shot, which `shots` detects; so does `animation`
text        text files, and passages of texts
documents   passages of Word files, presentations, web pages, e-books and mail, parsed in a child
            process
pdf         pages of PDFs
ocr         text in pictures
speech      transcripts of speech
thumbnails  small pictures of photos, videos, pages and covers
captions    files of captions; `tables` reads any table about files that a user wrote
file_state  whether a file has changed

All readers take a path, or bytes, and raise UnreadableFile with the reason.
"""
