"""The small worlds that tests share: models, groups, registries and judgements, made in seconds."""
