"""How the built-in model is made: `python -m mmsearch.training build` writes `models/mini`.

    data        photos and captions of a folder, ImageNet class names as prompts
    trunks      EfficientNet-lite2 and MiniLM as plain modules, from their published weights
    features    what the frozen parts say of each photo and text, computed once and kept
    heads       pooling and projection into the shared space
    losses      InfoNCE and what keeps the classifier's knowledge
    fit         the training loop
    export      one ONNX graph a tower
    quantise    smaller weights, same vectors
    phrases     what people call a sound
    sounds      labelled sounds, as they are and changed at random
    hearing     what the frozen image tower makes of pictures of them
    listen      the audio head, and the graph that is laid behind the image tower's
    sound_figures  how well it hears
    grids       what the frozen image blocks say of each place, computed once and kept
    regions     photos and texts as a few rows each: regions and words
    matching    how well words match regions
    rerank      the loop that trains those, of any encoder's features
    look        the same for `mini`
    appendix    graphs that are laid behind a tower's
    rows_export the graphs of a closer look
    rerank_figures  what a closer look at the best hits is worth
    evaluate    recall on the dev split through the exported graphs

Nothing here is imported when mmsearch searches; it needs `pip install 'mmsearch[train]'`.
"""
