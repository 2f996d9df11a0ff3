"""How the built-in model is made, and how a `clip:` model is tuned for reranking.

    recipe            every number that was chosen
    data              photos with captions, their views, ImageNet class names as prompts
    towers            EfficientNet-lite2 and MiniLM as plain modules, and the heads above them
    features          outputs of the frozen lower layers, computed once and cached
    fit               InfoNCE, distillation, and the two training loops of the towers
    phrases, sounds   labelled sounds, what people call them, and random changes of them
    audio             what the image tower makes of spectrograms, and the audio head
    token_embeddings  regions and words as small embeddings, and their late interaction
    rerank            the training loop of those, on features of any encoder
    export            ONNX graphs: tracing, smaller weights, extensions of another graph
    build             the steps that write `models/mini`
    evaluate          recall of the shipped files on the dev split, before and after reranking
    evaluate_audio    how well the shipped files find sounds
    tune, tuning      the same reranking for a `clip:` model, on a user's own pairs
    clip_features     what open_clip's towers say of the places of a photo and of a text's tokens
    tune_figures      what tuning gains on held-out pairs

Nothing here is imported when mmsearch searches; it needs `pip install 'mmsearch[train]'`.
"""
