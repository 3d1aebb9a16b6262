"""The methods: what is learned from which model, in what order; one file per idea, each close to its paper."""
