"""What a call of the model gets: the mask, ALiBi, and what each model family needs."""
