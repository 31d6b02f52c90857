"""An OpenAI-compatible server for re-routed models, and a page to try re-routing on (docs/serve.md).

`server.run_server` opens model and bank and listens; `app.create_app` has the routes; `batching.Batcher` groups the
requests that wait; `engine.Engine` answers a group with the one evaluator (`evaluation.batch`).
"""
