"""Where weights come from: tensors that record what libraries do to them, and files of other formats."""
