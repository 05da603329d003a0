"""What a batch field means to a model: from fields to what a net is given."""
