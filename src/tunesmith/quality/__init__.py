"""The checklist: what will ruin a fine-tune, found before a GPU hour is spent."""
