# Set these first
API_BASE="https://api.killatamata.com"
API_KEY="YOUR_API_KEY"
# 1) Submit a job
SUBMIT_RES=$(curl -sS -X POST "$API_BASE/api/v1/media/jobs" \
-H "Authorization: Bearer $API_KEY" \
-H "Content-Type: application/json" \
-d '{
"task": "image.generate",
"input": {
"prompt": "cinematic fox astronaut",
"width": 1024,
"height": 1024
}
}')
echo "$SUBMIT_RES"
# 2) Poll status
JOB_ID=$(echo "$SUBMIT_RES" | jq -r '.externalJobId // .jobId // .result.jobId // .id // empty')
curl -sS -X GET "$API_BASE/api/v1/media/jobs?jobId=$JOB_ID" \
-H "Authorization: Bearer $API_KEY"
