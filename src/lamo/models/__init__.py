"""Neural parts: language-model backbones, embeddings, and the decision model made of both."""
